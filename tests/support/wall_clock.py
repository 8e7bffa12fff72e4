"""A wall clock of one server process that a test can set, without touching that of the machine."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

SHIFTED = Path(__file__).with_name("shifted_clock")


class WallClock:
    """The file that says by how much a process's wall clock is wrong."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "wall-clock"
        self.steps = 0
        self.shift(0.0)

    @property
    def env(self) -> dict[str, str]:
        """Return the variables of a process that shall have this clock."""
        path = [str(SHIFTED), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"TEST_WALL_CLOCK": str(self._path), "PYTHONPATH": os.pathsep.join(path)}

    def shift(self, seconds: float) -> None:
        """Set the clock to the true time and so many seconds."""
        with self._path.open("r+b" if self._path.exists() else "w+b") as file:
            file.write(struct.pack("<q", round(seconds * 1e9)))
        self.steps += 1


@asynccontextmanager
async def stepping(clocks: Sequence[WallClock], shifts_s: Sequence[float], every_s: float) -> AsyncIterator[None]:
    """Set these clocks again and again, each to another of the shifts than its neighbour."""

    async def step() -> None:
        number = 0
        while True:
            for place, clock in enumerate(clocks):
                clock.shift(shifts_s[(number + place) % len(shifts_s)])
            number += 1
            await asyncio.sleep(every_s)

    task = asyncio.ensure_future(step())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
