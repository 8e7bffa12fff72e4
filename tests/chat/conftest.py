"""Provide stages on which chats run with scripted engines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minitoolai.core.catalog.prices import Prices
from tests.support.books import TemporaryBooks
from tests.support.scripted_chats import ScriptedEngine, Stage


@pytest.fixture
def set_up(sqlite_books: TemporaryBooks) -> Callable[..., Stage]:
    """Return a function that makes a stage from engines, in order. After the test, the books must add up."""

    def make(*engines: ScriptedEngine, costs: dict[tuple[str, str], Prices] | None = None) -> Stage:
        return Stage(sqlite_books, *engines, costs=costs or {})

    return make
