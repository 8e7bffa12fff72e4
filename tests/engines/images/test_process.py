"""Tests of image engines in a child process: batching, cancellation, and a child that fails, hangs or dies."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from PIL import Image

from minitoolai.core.errors import EngineError, EngineRefused
from minitoolai.engines.child_process import HeartbeatMonitor
from minitoolai.engines.host import ChildHost, MakeHost
from minitoolai.engines.images.child import LoadEngine
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.protocols import GeneratedImage, ImageRequest
from tests.support.waiting import eventually, is_alive

FAKE = "minitoolai.engines.images.fake"


class Place:
    """Where the engines of these tests run. The tests of other hosts run the same tests elsewhere."""

    make_host: MakeHost = ChildHost


def request(prompt: str = "a sun", *, seed: int = 1, steps: int = 4) -> ImageRequest:
    return ImageRequest(prompt=prompt, seed=seed, steps=steps, width=256, height=256)


def ignore(step: int, steps: int) -> None:
    """Ignore progress."""


def colour(image: GeneratedImage) -> object:
    return Image.open(io.BytesIO(image.png)).getpixel((128, 128))


def with_engine(
    test: Callable[[EngineProcess], Awaitable[None]], *, delay_ms: float = 1, silence_s: float = 10, call_s: float = 30
) -> None:
    """Run a test with a real child process."""

    async def run() -> None:
        config = {"model": "fake-1", "delay_ms": delay_ms}
        engine = EngineProcess(
            "fake",
            FAKE,
            config,
            max_concurrency=8,
            silence_s=silence_s,
            call_timeout_s=call_s,
            make_host=Place.make_host,
        )
        await engine.start()
        try:
            await test(engine)
        finally:
            pid = engine.pid
            await engine.stop()
            if Place.make_host is ChildHost:
                assert pid is None or not is_alive(pid)
            elif pid is not None:
                eventually(lambda: not is_alive(pid), within_s=10)

    asyncio.run(run())


async def until_up(engine: EngineProcess, restarts: int) -> None:
    async with asyncio.timeout(30):
        while engine.restarts < restarts or not engine.is_up:
            await asyncio.sleep(0.02)


def test_an_image_arrives_with_its_progress() -> None:
    async def test(engine: EngineProcess) -> None:
        seen: list[tuple[int, int]] = []
        image = await engine.generate("any", request(seed=0x102030), lambda step, steps: seen.append((step, steps)))
        assert (image.model, colour(image)) == ("fake-1", (0x10, 0x20, 0x30))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    with_engine(test)


def test_images_of_one_size_share_calls_and_join_a_running_batch() -> None:
    async def test(engine: EngineProcess) -> None:
        begun = asyncio.Event()
        seen: list[int] = []

        def on_progress(step: int, steps: int) -> None:
            seen.append(1)
            begun.set()

        first = asyncio.create_task(engine.generate("any", request(steps=150), on_progress))
        await begun.wait()
        others = [engine.generate("any", request(seed=n), lambda *_, n=n: seen.append(n)) for n in (2, 3)]
        images = await asyncio.gather(first, *others)
        assert [colour(image) for image in images] == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]
        # The others took part in calls of the first, which went on after them.
        assert (seen.count(1), seen.count(2), seen.count(3)) == (150, 4, 4)
        assert seen[-1] == 1
        # Every call served the first image, so there was no other. The next heartbeat has their number.
        async with asyncio.timeout(30):
            while engine._calls < 150:
                await asyncio.sleep(0.02)
        assert engine._calls == 150

    with_engine(test, delay_ms=10)


def test_a_cancelled_image_leaves_the_batch_and_the_others_continue() -> None:
    async def test(engine: EngineProcess) -> None:
        begun = asyncio.Event()
        unwanted = asyncio.create_task(engine.generate("any", request("slow", steps=8), lambda *_: begun.set()))
        wanted = asyncio.create_task(engine.generate("any", request(seed=2), ignore))
        await begun.wait()
        unwanted.cancel()
        assert colour(await wanted) == (0, 0, 2)
        assert (await asyncio.gather(unwanted, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        assert colour(await engine.generate("any", request(seed=3), ignore)) == (0, 0, 3)

    with_engine(test, delay_ms=50)


def test_a_bad_request_is_refused_for_good() -> None:
    async def test(engine: EngineProcess) -> None:
        with pytest.raises(EngineRefused, match="cannot be generated"):
            await engine.generate("any", request("unpaintable"), ignore)

    with_engine(test)


@pytest.mark.parametrize("prompt", ["unruly", "enormous"])
def test_only_the_image_at_fault_fails(prompt: str) -> None:
    async def test(engine: EngineProcess) -> None:
        prompts = ["a sun", prompt, "a moon"]
        results = await asyncio.gather(
            *(engine.generate("any", request(p, seed=n), ignore) for n, p in enumerate(prompts)), return_exceptions=True
        )
        fault = results.pop(1)
        assert isinstance(fault, EngineError)
        assert not isinstance(fault, EngineRefused)
        assert str(fault) == "the engine failed"
        assert [colour(image) for image in results if isinstance(image, GeneratedImage)] == [(0, 0, 0), (0, 0, 2)]
        assert engine.restarts == 0

    with_engine(test, delay_ms=20)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_child_that_dies_or_freezes_fails_its_images_and_is_restarted(number: signal.Signals) -> None:
    async def test(engine: EngineProcess) -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(engine.generate("any", request(steps=8), lambda *_: begun.set()))
        await begun.wait()
        assert engine.pid is not None
        os.kill(engine.pid, number)
        with pytest.raises(EngineError, match="failed during generation"):
            await task
        with pytest.raises(EngineError, match="starting"):
            await engine.generate("any", request(), ignore)
        await until_up(engine, restarts=1)
        assert colour(await engine.generate("any", request(seed=9), ignore)) == (0, 0, 9)

    with_engine(test, delay_ms=100, silence_s=1.5)


@pytest.mark.parametrize("prompt", ["deadly", "endless"])
def test_the_engine_recovers_from_an_image_that_kills_or_hangs_the_child(prompt: str) -> None:
    async def test(engine: EngineProcess) -> None:
        with pytest.raises(EngineError):
            await engine.generate("any", request(prompt), ignore)
        await until_up(engine, restarts=1)
        # On a busy machine, an ordinary image may take longer than the second after which a hang is assumed here.
        engine._hangs = HeartbeatMonitor(10, 30)
        engine._hangs.reset()
        assert colour(await engine.generate("any", request(seed=9), ignore)) == (0, 0, 9)

    with_engine(test, call_s=1.0)


def test_a_frozen_child_does_not_block_the_event_loop() -> None:
    async def test(engine: EngineProcess) -> None:
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        loop = asyncio.get_running_loop()
        # Far more than the buffer of a pipe.
        tasks = [asyncio.create_task(engine.generate("any", request("x" * 8000), ignore)) for _ in range(100)]
        longest_s = 0.0
        for _ in range(20):
            before_s = loop.time()
            await asyncio.sleep(0.01)
            longest_s = max(longest_s, loop.time() - before_s)
        assert longest_s < 1.0
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, EngineError) for end in ended)

    with_engine(test, silence_s=1.5)


def test_a_child_that_cannot_load_reports_why() -> None:
    async def run() -> None:
        config = {"model": "x", "delay_ms": 1}
        engine = EngineProcess("fake", FAKE, config, max_concurrency=1, make_host=Place.make_host)
        engine._load = LoadEngine("minitoolai.engines.no_such_module", {})
        with pytest.raises(EngineError, match="could not be loaded: ModuleNotFoundError"):
            await engine.start()
        assert not engine.is_up
        await engine.stop()

    asyncio.run(run())
