"""A child process that speaks: one that hangs is killed, one that a busy machine makes slow is not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.core.errors import EngineError, EngineTimeout
from minitoolai.engines.voice_child import VoiceChild
from minitoolai.engines.voice_process import Begin, Load, Said, Say
from tests.support.waiting import is_alive

ODD = Load("tests.support.odd_voices", [], 0)
#: Short, so that the tests are; loading takes less processor time than this.
HANG_AFTER_S = 2.0
#: Far longer: a machine that is busy may need it.
PATIENCE_S = 60.0


def with_child(test: Callable[[VoiceChild], Awaitable[None]], load: Load = ODD) -> None:
    """Run the test beside a real child."""

    async def run() -> None:
        child = VoiceChild("odd", load, hang_after_s=HANG_AFTER_S, look_every_s=0.1)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await child.start()
                await test(child)
        finally:
            pid = child.pid
            await child.stop()
            assert pid is None or not is_alive(pid)

    asyncio.run(run())


def say(child: VoiceChild, text: str) -> asyncio.Future[Said]:
    """Have one sentence spoken, as a text of its own."""
    say.texts += 1  # type: ignore[attr-defined]
    number = say.texts  # type: ignore[attr-defined]
    child.tell(Begin(number, "odd", "pcm", 1.0))
    return child.ask(Say(number, text))


say.texts = 0  # type: ignore[attr-defined]


async def speaks_again(child: VoiceChild, restarts: int) -> None:
    """Wait until a new child speaks."""
    while child.restarts < restarts or not child.is_up:
        await asyncio.sleep(0.02)
    assert (await say(child, "hello")).samples == 100


def test_a_child_that_hangs_is_killed_and_what_waited_behind_it_says_so() -> None:
    async def test(child: VoiceChild) -> None:
        hangs, waits = say(child, "block"), say(child, "hello")
        with pytest.raises(EngineTimeout, match="odd hung; what was spoken is charged"):
            await hangs
        with pytest.raises(EngineError, match="odd died and is starting again") as caught:
            await waits
        assert not isinstance(caught.value, EngineTimeout)
        await speaks_again(child, 1)

    with_child(test)


def test_a_child_that_is_stopped_is_killed() -> None:
    async def test(child: VoiceChild) -> None:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(EngineTimeout):
            await say(child, "hello")
        await speaks_again(child, 1)

    with_child(test)


def test_a_child_that_gets_little_of_the_processor_is_let_work() -> None:
    async def test(child: VoiceChild) -> None:
        assert (await say(child, f"crawl {3 * HANG_AFTER_S}")).samples == 100
        assert child.restarts == 0

    with_child(test)


def test_a_sentence_that_waits_behind_others_has_not_begun() -> None:
    async def test(child: VoiceChild) -> None:
        # Each alone takes half as long as a hang, all of them three times as long.
        said = await asyncio.gather(*(say(child, f"crawl {HANG_AFTER_S / 2}") for _ in range(6)))
        assert [one.samples for one in said] == [100] * 6
        assert child.restarts == 0

    with_child(test)


def test_a_child_that_waits_for_orders_does_not_hang() -> None:
    async def test(child: VoiceChild) -> None:
        assert (await say(child, "hello")).samples == 100
        await asyncio.sleep(1.5 * HANG_AFTER_S)
        assert (await say(child, "hello")).samples == 100
        assert child.restarts == 0

    with_child(test)


def test_voices_that_cannot_be_loaded_say_why() -> None:
    async def test(child: VoiceChild) -> None:
        raise AssertionError("it started")

    with pytest.raises(EngineError, match="odd: the voices could not be loaded: ModuleNotFoundError"):
        with_child(test, Load("tests.support.no_such_voices", [], 0))
