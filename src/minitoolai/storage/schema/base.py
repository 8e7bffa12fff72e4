"""What all tables share: the metadata with its naming convention, 64-bit integers, and short forms."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, MetaData, text

# STRICT tables of SQLite have INTEGER only; PostgreSQL needs BIGINT for 64 bits.
Int64 = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(column_0_label)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index over the rows that fulfil `where`."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


def one_of(column: str, *words: str) -> CheckConstraint:
    """Return a CHECK that a column has one of these values.

    Written with OR, because SQLite builds a tree per row for IN with three or more values (decision 0012).
    """
    return CheckConstraint(" OR ".join(f"{column} = '{word}'" for word in words), name=f"{column}_known")
