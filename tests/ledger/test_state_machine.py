"""Whatever is asked, in whatever batches, with whatever repeats: the rows on disk say what a dictionary says."""

from __future__ import annotations

import random
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from minitoolai.ledger.types import Operation
from tests.support.books import TemporaryBooks, emptied, new_file
from tests.support.ledger_model import Customers
from tests.support.ledger_run import CUSTOMERS, SideBySide


class LedgerOnDisk(RuleBasedStateMachine):
    """A batch grows operation by operation and is committed at some moment, through storage, to a database."""

    #: Made once; every example begins with all of its tables empty.
    books: TemporaryBooks

    def __init__(self) -> None:
        super().__init__()
        self.books.clear()
        self.both = SideBySide(self.books.connection)
        self.customers = Customers(CUSTOMERS, random.Random(0))
        self.batch: list[Operation] = []

    @rule(draw=st.randoms(use_true_random=False))
    def ask(self, draw: random.Random) -> None:
        self.customers.draw = draw
        self.batch.append(self.customers.operation())

    @precondition(lambda self: bool(self.batch))
    @rule(place=st.integers(0, 50))
    def repeat_within_the_batch(self, place: int) -> None:
        self.batch.append(self.batch[place % len(self.batch)])

    @precondition(lambda self: bool(self.batch))
    @rule()
    def commit(self) -> None:
        """Every row must then agree with the model, and the audit must be empty."""
        batch, self.batch = self.batch, []
        self.both.apply(batch, self.customers.plans)

    @rule(draw=st.randoms(use_true_random=False))
    def claim(self, draw: random.Random) -> None:
        """A worker takes jobs between two batches."""
        self.both.claim(draw)


def _settings(examples: int) -> settings:
    everything = list(HealthCheck)
    return settings(
        max_examples=examples, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=everything
    )


def _run(url: str, examples: int) -> None:
    books = TemporaryBooks(url)
    try:
        run_state_machine_as_test(type("Ledger", (LedgerOnDisk,), {"books": books}), settings=_settings(examples))
    finally:
        books.close()


def test_on_sqlite_every_row_says_what_the_model_says(tmp_path: Path) -> None:
    _run(new_file(tmp_path), 100)


def test_on_postgres_every_row_says_what_the_model_says(postgres_url: str) -> None:
    _run(emptied(postgres_url), 10)
