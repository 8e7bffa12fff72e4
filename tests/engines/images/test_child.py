"""Tests of the batch loop of an image child process, without the process."""

from __future__ import annotations

import asyncio
import io
import queue

import pytest

from minitoolai.engines.child_process import to_frame
from minitoolai.engines.images.child import (
    Add,
    BatchLoop,
    Event,
    Failed,
    Generated,
    LoadEngine,
    Progress,
    Remove,
    _read_commands,
    describe_error,
)
from minitoolai.engines.images.fake import DIES, HANGS, RAISES, REFUSED, TOO_LARGE, FakeBatchEngine
from minitoolai.engines.protocols import ImageRequest


def add(number: int, prompt: str = "a sun", *, key: str = "k", steps: int = 2, seed: int = 1) -> Add:
    return Add(number, "m", key, ImageRequest(prompt=prompt, steps=steps, seed=seed, width=64, height=64))


def run(loop: BatchLoop, *commands: Add | Remove) -> None:
    for command in commands:
        loop.handle(command)
    while len(loop):
        loop.step()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def loop(events: list[Event]) -> BatchLoop:
    return BatchLoop(FakeBatchEngine("fake-1", 0), events.append)


def test_images_of_one_key_share_calls_and_different_keys_do_not(loop: BatchLoop, events: list[Event]) -> None:
    run(loop, add(1), add(2), add(3, key="other"))
    assert loop.calls == 4
    assert {event.id for event in events if isinstance(event, Generated)} == {1, 2, 3}
    assert [event for event in events if isinstance(event, Progress) and event.id == 1] == [
        Progress(1, 1, 2),
        Progress(1, 2, 2),
    ]


def test_a_removed_image_sends_nothing_more_and_its_batch_continues(loop: BatchLoop, events: list[Event]) -> None:
    loop.handle(add(1))
    loop.handle(add(2))
    loop.step()
    run(loop, Remove(1), Remove(99))
    assert [event.id for event in events if isinstance(event, Generated)] == [2]
    assert len(loop) == 0


def test_a_refused_image_fails_alone(loop: BatchLoop, events: list[Event]) -> None:
    run(loop, add(1, REFUSED), add(2))
    assert events[0] == Failed(1, "this prompt cannot be generated", refused=True)
    assert isinstance(events[-1], Generated)


def test_an_unknown_model_leaves_no_empty_batch_behind(events: list[Event]) -> None:
    class Missing(FakeBatchEngine):
        def open(self, model: str) -> object:  # type: ignore[override]
            raise ValueError("no weights")

    loop = BatchLoop(Missing("fake-1", 0), events.append)
    run(loop, add(1))
    assert events == [Failed(1, "ValueError: no weights", refused=True)]
    loop.step()
    assert loop.calls == 0


def test_images_of_a_broken_batch_are_restarted_one_by_one(loop: BatchLoop, events: list[Event]) -> None:
    run(loop, add(1), add(2, RAISES), add(3))
    assert [event.id for event in events if isinstance(event, Generated)] == [1, 3]
    assert [event for event in events if isinstance(event, Failed)] == [
        Failed(2, "MemoryError: no memory for the whole batch")
    ]


def test_a_suspect_can_be_removed_while_it_waits(loop: BatchLoop, events: list[Event]) -> None:
    loop.handle(add(1))
    loop.handle(add(2, RAISES))
    loop.step()
    assert len(loop) == 2
    run(loop, Remove(2))
    assert [event.id for event in events if isinstance(event, Generated | Failed)] == [1]


def test_an_image_may_fail_while_its_batch_continues(loop: BatchLoop, events: list[Event]) -> None:
    run(loop, add(1, TOO_LARGE), add(2))
    assert Failed(1, "out of memory for this image alone") in events
    assert any(isinstance(event, Generated) and event.id == 2 for event in events)


def test_commands_are_read_until_the_end_of_the_stream() -> None:
    commands: queue.SimpleQueue[object] = queue.SimpleQueue()
    sent = [LoadEngine("m", {"a": 1}), add(1), Remove(1)]
    _read_commands(io.BytesIO(b"".join(map(to_frame, sent))), commands)  # type: ignore[arg-type]
    assert [commands.get() for _ in range(4)] == [*sent, None]


def test_errors_are_described_by_type_and_message_in_300_characters() -> None:
    assert describe_error(ValueError("bad")) == "ValueError: bad"
    assert describe_error(asyncio.CancelledError()) == "CancelledError"  # type: ignore[arg-type]
    assert len(describe_error(ValueError("x" * 999))) == 300


def test_the_words_that_trigger_failures_are_distinct() -> None:
    words = (REFUSED, RAISES, TOO_LARGE, DIES, HANGS)
    assert not any(one != other and one in other for one in words for other in words)
