"""A transcription is paused while chats wait for their first token, but never for more than half of the time."""

from __future__ import annotations

import asyncio
import time

import pytest

from minitoolai.engines.child_process import pause_background, resume_background
from minitoolai.engines.host import ChildHost
from minitoolai.engines.preemption import MAX_PAUSE_S, Preemption
from tests.support.waiting import eventually


class Background:
    """Counts for how long it was paused."""

    def __init__(self, *, exists: bool = True) -> None:
        self.exists = exists
        self.paused_s, self._since = 0.0, 0.0
        self.is_paused = False

    def pause(self) -> bool:
        assert not self.is_paused
        self.is_paused = self.exists
        self._since = asyncio.get_running_loop().time()
        return self.exists

    def resume(self) -> None:
        assert self.is_paused
        self.is_paused = False
        self.paused_s += asyncio.get_running_loop().time() - self._since


def test_it_is_paused_until_the_last_request_waits_no_more() -> None:
    async def test() -> None:
        background = Background()
        preemption = Preemption(background.pause, background.resume)
        preemption.begin()
        preemption.begin()
        assert background.is_paused
        preemption.end()
        assert background.is_paused
        preemption.end()
        assert not background.is_paused

    asyncio.run(test())


def test_nothing_is_paused_where_nothing_runs() -> None:
    async def test() -> None:
        background = Background(exists=False)
        preemption = Preemption(background.pause, background.resume)
        preemption.begin()
        preemption.end()
        assert not background.paused_s

    asyncio.run(test())


def test_one_long_wait_ends_the_pause() -> None:
    async def test() -> None:
        background = Background()
        preemption = Preemption(background.pause, background.resume)
        preemption.begin()
        await asyncio.sleep(MAX_PAUSE_S * 1.1)
        assert not background.is_paused
        preemption.end()
        assert MAX_PAUSE_S * 0.99 <= background.paused_s < MAX_PAUSE_S * 1.5

    asyncio.run(test())


def test_many_short_waits_leave_it_half_of_the_time() -> None:
    async def test() -> None:
        background = Background()
        preemption = Preemption(background.pause, background.resume)
        began_s = time.monotonic()
        while time.monotonic() - began_s < 4 * MAX_PAUSE_S:
            preemption.begin()
            await asyncio.sleep(0.02)
            preemption.end()
            await asyncio.sleep(0.001)
        took_s = time.monotonic() - began_s
        # The first second is allowed at once.
        assert 0.4 * took_s < background.paused_s <= MAX_PAUSE_S + (took_s - MAX_PAUSE_S) / 2 + 0.2

    asyncio.run(test())


class Sleeper:
    """The protocol side of a child that waits for commands."""

    check_every_s = 0.5

    async def load(self) -> None:
        """Load nothing."""

    def why_hung(self) -> str | None:
        return None

    def on_event(self, message: bytes) -> None:
        raise AssertionError(message)

    def on_end(self, *, is_lost: bool) -> None:
        """Nothing waits."""


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("is_background", [True, False])
def test_only_children_in_the_background_are_stopped_and_continue(is_background: bool) -> None:
    async def test() -> None:
        child = ChildHost("sleeper", "minitoolai.engines.speech.child", Sleeper())
        child.is_background = is_background
        await child.start()
        assert child.pid is not None
        pid = child.pid
        assert pause_background() == is_background
        if is_background:
            eventually(lambda: state(pid) == "T")
        else:
            assert state(pid) != "T"
        resume_background()
        eventually(lambda: state(pid) != "T")
        # A stopped child can be killed.
        pause_background()
        await child.stop()
        assert not pause_background()

    asyncio.run(test())
