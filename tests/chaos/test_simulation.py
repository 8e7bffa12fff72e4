"""The books in virtual time, on a store that fails: no seed finds anything, and the same seed is the same story."""

from __future__ import annotations

import ast
import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from minitoolai.billing.charging import wait_until_durable
from minitoolai.core.errors import AlreadySettled
from minitoolai.ledger import rules
from tests.chaos.simulation import Simulation, run_simulation
from tests.support.mutants import load
from tests.support.virtual import VirtualClock, VirtualLoop


@pytest.mark.parametrize("is_shared", [False, True])
def test_whatever_fails_the_books_come_to_rest_and_no_answer_was_a_lie(is_shared: bool) -> None:
    tally = run_simulation(range(40), is_shared=is_shared)
    assert tally.violations == []
    assert tally.crashes > 20
    assert tally.faults > 60
    assert tally.pauses > 20
    assert tally.clock_steps > 200
    assert tally.acknowledged > 100


def test_the_same_seed_is_the_same_story_and_another_seed_another() -> None:
    first, again, other = (run_simulation(range(seed, seed + 3)) for seed in (7, 7, 8))
    assert first.trace == again.trace
    assert first.trace != other.trace


def test_a_crash_in_the_moment_of_an_answer_ends_every_customer_of_the_process() -> None:
    """Seed 1733 dies while a refund is confirmed: its customer must not ask the dead process for another hold."""
    tally = run_simulation(range(1733, 1734), is_shared=True)
    assert (tally.seeds, tally.violations) == (1, [])


class Hasty(Simulation):
    """Tells its caller before the charge is written."""

    @staticmethod
    async def wait(charge: asyncio.Future[Any], *, within_s: float) -> None:
        charge.add_done_callback(lambda done: done.cancelled() or done.exception())


def test_answers_that_do_not_wait_for_their_charge_are_found_out() -> None:
    assert run_simulation(range(100), kind=Hasty, stop_at=1).violations


class Deaf(Simulation):
    """Waits for its charge, and takes one that was settled before for its own."""

    @staticmethod
    async def wait(charge: asyncio.Future[Any], *, within_s: float) -> None:
        with contextlib.suppress(AlreadySettled):
            await wait_until_durable(charge, within_s=within_s)


def test_answers_that_were_recovered_during_a_pause_and_look_complete_are_found_out() -> None:
    assert run_simulation(range(100), is_shared=True, kind=Deaf, stop_at=1).violations


class ByWallClock(VirtualClock):
    """Writes and compares leases in a time that an administrator may set."""

    def lease_ms(self) -> int:
        return self.now_ms()


class Steppable(Simulation):
    """Keeps its leases by the wall clock, as its only process or as one of two."""

    def __init__(self, seed: int, disk: Any, loop: VirtualLoop, **options: Any) -> None:
        super().__init__(seed, disk, loop, **options)
        self._clock = ByWallClock(loop)


@pytest.mark.parametrize("is_shared", [False, True])
def test_leases_by_the_wall_clock_are_found_out(is_shared: bool) -> None:
    assert run_simulation(range(100), is_shared=is_shared, kind=Steppable, stop_at=1).violations


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("account, hold.progress, operation.now_ms, outcome)", "account, hold.amount, operation.now_ms, outcome)"),
        ("    hold.lease_until_ms = max(hold.lease_until_ms or 0, operation.lease_until_ms)\n", ""),
        (
            "    hold.progress = max(hold.progress, min(operation.progress, hold.amount))\n",
            "    hold.progress = hold.amount\n",
        ),
    ],
    ids=["recovery takes all", "leases are not renewed", "a checkpoint counts as the whole"],
)
def test_a_wrong_ledger_is_found_out(right: str, wrong: str) -> None:
    source = Path(rules.__file__).read_text("utf-8")
    assert source.count(right) == 1
    weak = load(ast.parse(source.replace(right, wrong)), "weak_ledger").decide
    found = [
        run_simulation(range(100), is_shared=shared, decide=weak, stop_at=1).violations for shared in (False, True)
    ]
    assert any(found)
