"""Rewrite `execute_many` into one PostgreSQL statement that takes the rows as arrays (bulk insert and update).

The writer's SQL is written for one row, with `?` placeholders. On PostgreSQL a batch does not run that SQL, but a form
that takes one array per column: `INSERT … SELECT * FROM unnest(…)` or `UPDATE … FROM unnest(…)`. A row then costs an
array element instead of a message, so a batch of 500 takes as long as one of five. storage/tables/ledger.py lists the
statements that run this way.

`bulk_statement` rewrites three shapes with regular expressions:

- `INSERT INTO t (columns) VALUES (?, …) [ON CONFLICT …]`
- `UPDATE t SET column = ? or an expression, … WHERE key = ? [AND column = ? or a constant] …`
- `DELETE FROM t WHERE key = ?`

Any other statement for several rows, and an UPDATE that names a key twice, runs row by row: slower, with the same
result. connection.py logs a warning once per statement when that happens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from struct import Struct, pack
from typing import Any

_INSERT = re.compile(r"INSERT INTO (\w+) \(([\w, ]+)\) VALUES \(\?(?:, \?)*\)( ON CONFLICT.*)?", re.DOTALL)
_UPDATE = re.compile(
    r"UPDATE (\w+) SET (\w+ = (?:\?|[^?,]+)(?:, \w+ = (?:\?|[^?,]+))*?) WHERE (\w+) = \?((?: AND \w+ = (?:\?|'\w+'))*)"
)
_DELETE = re.compile(r"DELETE FROM (\w+) WHERE (\w+) = \?")
_GUARD = re.compile(r" AND (\w+) = (\?|'\w+')")
_PLACEHOLDERS = re.compile(r"VALUES \(([?, ]+)\)")


@dataclass(frozen=True)
class BulkStatement:
    """SQL template with one array for each of `columns`, in the order of a row's values."""

    table: str
    columns: tuple[str, ...]
    sql: str
    #: Index of the value in a row that must be unique within the batch. None if any rows will do.
    key: int | None

    def over_arrays(self, types: dict[str, str]) -> str:
        """Return the SQL with placeholders `$1`… for the arrays. `types` maps each column to its database type."""
        arrays = [f"${number}::{types[column]}[]" for number, column in enumerate(self.columns, 1)]
        keys = arrays[self.key or 0]
        return self.sql.replace("{arrays}", ", ".join(arrays)).replace("{keys}", keys)


def bulk_statement(sql: str) -> BulkStatement | None:
    """Return the bulk form of a one-row statement, or None if its shape is not supported."""
    if match := _INSERT.fullmatch(sql):
        return _bulk_insert(sql, match)
    if match := _UPDATE.fullmatch(sql):
        return _bulk_update(match)
    if match := _DELETE.fullmatch(sql):
        table, key = match.groups()
        return BulkStatement(table, (key,), f"DELETE FROM {table} WHERE {key} = ANY({{keys}})", None)
    return None


def _bulk_insert(sql: str, match: re.Match[str]) -> BulkStatement | None:
    columns = tuple(match[2].split(", "))
    placeholders = _PLACEHOLDERS.search(sql)
    if placeholders is None or placeholders[1].count("?") != len(columns):
        return None
    insert = f"INSERT INTO {match[1]} ({match[2]}) SELECT * FROM unnest({{arrays}}){match[3] or ''}"
    return BulkStatement(match[1], columns, insert, None)


def _bulk_update(match: re.Match[str]) -> BulkStatement:
    table, key = match[1], match[3]
    columns: list[str] = []
    assignments = []
    for part in match[2].split(", "):
        column, value = part.split(" = ", 1)
        if value == "?":
            value = f"v.v{len(columns)}"
            columns.append(column)
        assignments.append(f"{column} = {value}")
    key_position = len(columns)
    columns.append(key)
    guard = ""
    for column, value in _GUARD.findall(match[4]):
        # Not `=`: the planner could then walk a partial index (every pending hold) instead of the key's index.
        guard += f" AND {table}.{column} IS NOT DISTINCT FROM {f'v.v{len(columns)}' if value == '?' else value}"
        if value == "?":
            columns.append(column)
    names = ", ".join(f"v{number}" for number in range(len(columns)))
    return BulkStatement(
        table,
        tuple(columns),
        f"UPDATE {table} SET {', '.join(assignments)} FROM unnest({{arrays}}) AS v({names})"
        # Repeat the keys as a list: a generic plan made while the table was small would scan the whole table.
        f" WHERE {table}.{key} = v.v{key_position} AND {table}.{key} = ANY({{keys}}){guard}",
        key_position,
    )


# ── binary arrays ─────────────────────────────────────────────────────────────────────────────────────────
#
# Columns are packed into PostgreSQL's binary array format by `struct`. The dumpers of psycopg look up the type of
# every element; here a column has one type, and packing a batch takes a tenth of the time.

_HEADER = Struct("!iiIii")
_LENGTH = Struct("!i")
_NULL = _LENGTH.pack(-1)


def _pack_integers(column: Sequence[Any], size: int, code: str) -> bytes:
    if None not in column:
        lengths_and_values = chain.from_iterable(zip(repeat(size), column, strict=False))
        return pack(f"!{('i' + code) * len(column)}", *lengths_and_values)
    one = Struct(f"!i{code}")
    return b"".join(_NULL if value is None else one.pack(size, value) for value in column)


def _int8(column: Sequence[Any]) -> bytes:
    return _pack_integers(column, 8, "q")


def _int4(column: Sequence[Any]) -> bytes:
    return _pack_integers(column, 4, "i")


def _bytea(column: Sequence[Any]) -> bytes:
    return b"".join(_NULL if value is None else _LENGTH.pack(len(value)) + value for value in column)


def _text(column: Sequence[Any]) -> bytes:
    # Most text columns repeat a few values (model, state, key), so encode each value once.
    elements = {value: _bytea((value if value is None else value.encode(),)) for value in set(column)}
    return b"".join(map(elements.__getitem__, column))


#: Column type → OID of its array type, OID of the type, and the function that packs the elements.
_ARRAY_TYPES: dict[str, tuple[int, int, Callable[[Sequence[Any]], bytes]]] = {
    "bigint": (1016, 20, _int8),
    "integer": (1007, 23, _int4),
    "text": (1009, 25, _text),
    "bytea": (1001, 17, _bytea),
}


def can_pack(column_type: str) -> bool:
    """Return True if columns of this type, as PostgreSQL spells it, can be packed."""
    return column_type in _ARRAY_TYPES


def array_oid(column_type: str) -> int:
    """Return PostgreSQL's OID for arrays of this type."""
    return _ARRAY_TYPES[column_type][0]


def pack_array(column_type: str, column: Sequence[Any]) -> bytes:
    """Pack the values of one column, at least one. Each value fits the type or is None."""
    _, element_oid, pack_elements = _ARRAY_TYPES[column_type]
    return _HEADER.pack(1, 1, element_oid, len(column), 1) + pack_elements(column)
