"""One statement for many rows on PostgreSQL: what `execute_many` was given, rewritten over arrays.

A row costs an array element instead of a message: a batch of 500 is as fast as one of five. Statements of another
shape, and updates that name a row twice, run row by row as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from struct import Struct, pack
from typing import Any

_INSERT = re.compile(r"INSERT INTO (\w+) \(([\w, ]+)\) VALUES \(\?(?:, \?)*\)( ON CONFLICT.*)?", re.DOTALL)
_UPDATE = re.compile(r"UPDATE (\w+) SET (\w+ = \?(?:, \w+ = \?)*) WHERE (\w+) = \?( AND [^?]+)?", re.DOTALL)
_MARKS = re.compile(r"VALUES \(([?, ]+)\)")


@dataclass(frozen=True)
class SetBased:
    """`sql` with `{types}` to be filled: one array for each of `columns`, in the order of a row's values."""

    table: str
    columns: tuple[str, ...]
    sql: str
    #: The place in a row of the value that must differ from row to row; None where any rows will do.
    key: int | None

    def over_arrays(self, types: dict[str, str]) -> str:
        """The statement, with `$1`… for the arrays. `types`: column → its type in this database."""
        arrays = [f"${place}::{types[column]}[]" for place, column in enumerate(self.columns, 1)]
        return self.sql.replace("{arrays}", ", ".join(arrays)).replace("{keys}", arrays[-1])


def rewrite(sql: str) -> SetBased | None:
    """The set-based form of a statement with `?` marks, or None where it has none."""
    if match := _INSERT.fullmatch(sql):
        columns = tuple(match[2].split(", "))
        marks = _MARKS.search(sql)
        if marks is None or marks[1].count("?") != len(columns):
            return None
        return SetBased(
            match[1],
            columns,
            f"INSERT INTO {match[1]} ({match[2]}) SELECT * FROM unnest({{arrays}}){match[3] or ''}",
            None,
        )
    if match := _UPDATE.fullmatch(sql):
        changed = tuple(part.split(" = ")[0] for part in match[2].split(", "))
        table, key = match[1], match[3]
        names = [f"v{place}" for place in range(len(changed) + 1)]
        sets = ", ".join(f"{column} = v.{name}" for column, name in zip(changed, names, strict=False))
        # Not `=`: that would let the planner walk a partial index (every pending hold) instead of the key's.
        guard = re.sub(r"AND (\w+) =", rf"AND {table}.\1 IS NOT DISTINCT FROM", match[4] or "")
        return SetBased(
            table,
            (*changed, key),
            f"UPDATE {table} SET {sets} FROM unnest({{arrays}}) AS v({', '.join(names)})"
            # The key once more, as a list: else a plan made while the table was small would walk all of it.
            f" WHERE {table}.{key} = v.{names[-1]} AND {table}.{key} = ANY({{keys}}){guard}",
            len(changed),
        )
    return None


# (merged from arrays) Columns of a batch as PostgreSQL takes them over the wire: arrays in their binary form, packed by `struct`.
# (merged from arrays)
# (merged from arrays) The driver's own dumpers ask every element for its type; here the column has one, and a batch costs a tenth.

_HEAD = Struct("!iiIii")
_LENGTH = Struct("!i")
_NULL = _LENGTH.pack(-1)


def _whole_numbers(column: Sequence[Any], size: int, code: str) -> bytes:
    if None not in column:
        lengths_and_values = chain.from_iterable(zip(repeat(size), column, strict=False))
        return pack(f"!{('i' + code) * len(column)}", *lengths_and_values)
    one = Struct(f"!i{code}")
    return b"".join(_NULL if value is None else one.pack(size, value) for value in column)


def _int8(column: Sequence[Any]) -> bytes:
    return _whole_numbers(column, 8, "q")


def _int4(column: Sequence[Any]) -> bytes:
    return _whole_numbers(column, 4, "i")


def _bytea(column: Sequence[Any]) -> bytes:
    return b"".join(_NULL if value is None else _LENGTH.pack(len(value)) + value for value in column)


def _text(column: Sequence[Any]) -> bytes:
    # Most columns of text say the same in many rows: a model, a state, a key.
    packed = {value: _bytea((value if value is None else value.encode(),)) for value in set(column)}
    return b"".join(map(packed.__getitem__, column))


#: Type → the number of its array's type, of its own, and how its elements are packed.
_KINDS: dict[str, tuple[int, int, Callable[[Sequence[Any]], bytes]]] = {
    "bigint": (1016, 20, _int8),
    "integer": (1007, 23, _int4),
    "text": (1009, 25, _text),
    "bytea": (1001, 17, _bytea),
}


def is_known(kind: str) -> bool:
    """Whether columns of this type, as PostgreSQL spells it, can be packed."""
    return kind in _KINDS


def array_type(kind: str) -> int:
    """The number under which PostgreSQL knows arrays of this type."""
    return _KINDS[kind][0]


def packed(kind: str, column: Sequence[Any]) -> bytes:
    """The values of one column, which are not none; each fits its type or is None."""
    _, element, pack_all = _KINDS[kind]
    return _HEAD.pack(1, 1, element, len(column), 1) + pack_all(column)
