"""How many copies of a placed engine there are, with copies in child processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.core.errors import EngineLost
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.placement import Placed, PlacedEngine
from minitoolai.engines.protocols import ImageRequest

ROWS = 4
Test = Callable[[PlacedEngine], Awaitable[None]]


def with_placed(test: Test, *, least: int = 0, most: int = 3, idle_s: float = 0.0) -> None:
    """Run a test with an engine in up to `most` copies, each for ROWS images."""

    def copy() -> EngineProcess:
        config = {"model": "fake-1", "delay_ms": 60}
        return EngineProcess("fake", "minitoolai.engines.images.fake", config, max_concurrency=ROWS)

    async def run() -> None:
        engine = PlacedEngine("fake", copy, rows=ROWS, least=least, most=most, idle_s=idle_s)
        try:
            await engine.start()
            await test(engine)
        finally:
            await engine.stop()
            assert engine.placed == Placed(0, 0, 0)

    asyncio.run(run())


async def until(engine: PlacedEngine, running: int) -> None:
    async with asyncio.timeout(60):
        while engine.placed.running != running:
            await asyncio.sleep(0.02)


def request() -> ImageRequest:
    return ImageRequest(prompt="a sun", seed=1, steps=8, width=256, height=256)


@pytest.mark.parametrize(
    ("waiting", "running", "wanted"), [(0, 0, 0), (1, 0, 1), (4, 0, 1), (3, 2, 2), (5, 0, 2), (9, 3, 3), (500, 12, 3)]
)
def test_there_are_as_many_copies_as_the_jobs_fill(waiting: int, running: int, wanted: int) -> None:
    async def test(engine: PlacedEngine) -> None:
        engine.scale(waiting, running)
        assert engine.placed.wanted == wanted

    with_placed(test)


def test_the_least_number_starts_without_jobs_and_stays() -> None:
    async def test(engine: PlacedEngine) -> None:
        await until(engine, 1)
        engine.scale(0, 0)
        engine.scale(0, 0)
        assert engine.placed == Placed(1, 1, ROWS)

    with_placed(test, least=1)


def test_the_capacity_is_the_sum_over_the_copies_that_run() -> None:
    async def test(engine: PlacedEngine) -> None:
        # Before the first one, jobs are taken for those that it will have room for.
        assert (engine.is_up, engine.max_concurrency) == (False, ROWS)
        with pytest.raises(EngineLost):
            await engine.generate("any", request(), lambda *_: None)
        ready: list[int] = []
        engine.on_ready(lambda: ready.append(1))
        engine.scale(8, 0)
        await until(engine, 2)
        assert (engine.is_up, engine.max_concurrency) == (True, 2 * ROWS)
        assert (await engine.generate("any", request(), lambda *_: None)).model == "fake-1"
        assert len(ready) == 2

    with_placed(test)


def test_only_idle_copies_are_stopped_and_only_after_their_time() -> None:
    async def test(engine: PlacedEngine) -> None:
        engine.scale(12, 0)
        await until(engine, 3)
        engine.scale(12, 0)
        drawing = asyncio.create_task(engine.copies[2].generate("any", request(), lambda *_: None))
        await asyncio.sleep(0)
        engine.scale(0, 1)
        assert engine.placed.wanted == 3
        await asyncio.sleep(0.1)
        engine.scale(0, 1)
        # One image needs one copy: that which draws it.
        assert engine.placed.wanted == 1
        assert not drawing.done()
        await drawing
        await until(engine, 1)
        assert engine.copies[2].is_up
        engine.scale(0, 0)
        await asyncio.sleep(0.1)
        engine.scale(0, 0)
        assert engine.placed.wanted == 0

    with_placed(test, idle_s=0.1)
