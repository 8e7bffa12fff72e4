"""What the tests of the tables share: books with one right row of each kind, and statements that must be refused."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from sqlalchemy import CheckConstraint, Table

from minitoolai.core.errors import StoreError
from tests.support.books import TemporaryBooks, hold, refund, settle


def checks_of(module: ModuleType) -> set[str]:
    """The names of all CHECKs of the tables that this module defines."""
    tables = [value for value in vars(module).values() if isinstance(value, Table)]
    return {str(c.name) for table in tables for c in table.constraints if isinstance(c, CheckConstraint)}


def filled(books: TemporaryBooks, rows: dict[str, tuple[object, ...]] | None = None) -> int:
    """An account, called A, with 1000, of which hold 1 holds 400; hold 2 was settled for 50. And these rows."""
    number = books.account(1050)
    books.apply(hold(1, number, 400), hold(2, number, 60), settle(2, number, 50), refund(2, number, 5))
    for statement, values in (rows or {}).items():
        marks = ", ".join("?" * len(values))
        books.rows(f"INSERT INTO {statement} VALUES ({marks})", *(number if v == "A" else v for v in values))
    return number


def refuses_a_breach(books: TemporaryBooks, account: int, check: str, statement: str) -> None:
    """This statement fails because of this CHECK, and changes nothing."""
    before = books.everything()
    with pytest.raises(StoreError, match=rf"(?i)check constraint.*\b{check}\b"):
        books.rows(re.sub(r"\bA\b", str(account), statement))
    assert books.everything() == before


def refuses_a_second(books: TemporaryBooks, account: int, statement: str) -> None:
    """This statement fails because of a key, and changes nothing."""
    before = books.everything()
    with pytest.raises(StoreError, match=r"(?i)unique|foreign key"):
        books.rows(re.sub(r"\bA\b", str(account), statement))
    assert books.everything() == before
