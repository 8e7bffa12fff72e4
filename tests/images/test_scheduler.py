"""Who is drawn next and beside whom, case by case."""

from __future__ import annotations

from typing import Any

from minitoolai.images.scheduler import HEAD_OF_LINE_LIMIT_S, HeadOfLineTimer, pick_batch
from minitoolai.storage.jobs import WaitingJob


def job(number: int, model: str = "a", *, turn: int | None = None, failures: int = 0) -> WaitingJob:
    return WaitingJob(number, 1000 + number, model, "256x256", number if turn is None else turn, failures, number)


def chosen(waiting: list[WaitingJob], **given: Any) -> list[int]:
    facts = {"drawing": (), "is_alone": False, "resident": None, "free": 4, "head_wait_s": 0.0} | given
    return [one.id for one in pick_batch(waiting, lambda one: one.model, **facts)]


def test_nothing_waits_or_nothing_is_free() -> None:
    assert chosen([]) == []
    assert chosen([job(1)], free=0) == []


def test_the_head_is_drawn_with_whoever_fits_beside_it() -> None:
    assert chosen([job(1, "a"), job(2, "b"), job(3, "a"), job(4, "a")], free=2) == [1, 3]


def test_the_model_in_memory_goes_first_when_its_turn_is_near() -> None:
    waiting = [job(1, "a"), job(2, "b"), job(9, "c")]
    assert chosen(waiting, resident="b") == [2]
    assert chosen(waiting, resident="c") == [1]
    assert chosen(waiting, resident="b", head_wait_s=HEAD_OF_LINE_LIMIT_S) == [1]


def test_whoever_fits_joins_what_is_being_drawn_until_the_head_has_waited_enough() -> None:
    waiting = [job(1, "a"), job(2, "b"), job(50, "b")]
    assert chosen(waiting, drawing={"b"}) == [2, 50]
    assert chosen(waiting, drawing={"b"}, head_wait_s=HEAD_OF_LINE_LIMIT_S) == []
    assert chosen(waiting, drawing={"a"}, head_wait_s=HEAD_OF_LINE_LIMIT_S) == [1]


def test_a_suspect_is_drawn_alone_and_nobody_joins_it() -> None:
    suspect = job(1, failures=2)
    assert chosen([suspect, job(2)]) == [1]
    assert chosen([job(0), suspect, job(2)]) == [0, 2]
    assert chosen([suspect, job(2)], drawing={"a"}) == [2]
    assert chosen([suspect, job(2)], drawing={"a"}, head_wait_s=HEAD_OF_LINE_LIMIT_S) == []
    assert chosen([job(2)], drawing={"a"}, is_alone=True) == []


def test_a_head_is_passed_over_from_when_it_became_the_head() -> None:
    passing = HeadOfLineTimer()
    assert passing.look([job(1)], 10.0) == 0
    assert passing.look([job(1)], 11.5) == 1.5
    assert passing.look([job(2)], 12.0) == 0
    assert passing.look([], 13.0) == 0
