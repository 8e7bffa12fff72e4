"""What all tables have in common."""

from __future__ import annotations

import pytest
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from minitoolai.core.errors import StoreError
from minitoolai.storage.schema import base, metadata
from tests.support.books import TemporaryBooks


def test_amounts_are_integers(sqlite_books: TemporaryBooks) -> None:
    # PostgreSQL has no other type in this column; SQLite would take anything but for STRICT.
    with pytest.raises(StoreError, match="cannot store REAL"):
        sqlite_books.rows("UPDATE accounts SET posted = 1000.5 WHERE id = 1")


def test_every_table_is_strict(sqlite_books: TemporaryBooks) -> None:
    loose = sqlite_books.rows(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict AND type = 'table'"
    )
    assert {name for (name,) in loose} <= {"alembic_version", "sqlite_schema"}


def test_words_of_a_column_are_compared_one_by_one() -> None:
    # Not IN: SQLite would build a tree for each row (decision 0012).
    text = str(CreateTable(metadata.tables["holds"]).compile(dialect=sqlite.dialect()))
    assert "CHECK (state = 'pending' OR state = 'posted' OR state = 'voided')" in text


def test_a_partial_index_is_partial_on_both_databases() -> None:
    from sqlalchemy import Column, MetaData, Table
    from sqlalchemy.dialects import postgresql

    index = base.partial_index("ix_due", "at", where="at > 5")
    Table("t", MetaData(), Column("at", base.Int64), index)
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        assert str(CreateIndex(index).compile(dialect=dialect)).endswith("WHERE at > 5")


def test_numbers_have_64_bits_on_both_databases() -> None:
    from sqlalchemy.dialects import postgresql

    assert base.Int64.compile(dialect=postgresql.dialect()) == "BIGINT"
    assert base.Int64.compile(dialect=sqlite.dialect()) == "INTEGER"
