"""One statement for many rows on PostgreSQL: what `execute_many` was given, rewritten over arrays.

A row costs an array element instead of a message: a batch of 500 is as fast as one of five. Statements of another
shape, and updates that name a row twice, run row by row as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
