"""An image engine in as many copies as its jobs need, on the machines of a cluster.

A copy is a whole `ImageEngine` in its own place. Workers claim jobs for each copy apart, so that a job goes where the
weights are that it needs, and joins the batch that it fits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from math import ceil
from typing import NamedTuple

from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineError, EngineLost
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress

log = logging.getLogger(__name__)


class Placed(NamedTuple):
    """Copies of an engine: wanted now, running, and the images that these take."""

    wanted: int
    running: int
    capacity: int


class PlacedEngine:
    """Copies of one engine, between `least` and `most`. As an `ImageEngine` it stands for all of them."""

    max_images = EngineProcess.max_images

    def __init__(
        self, name: str, make_copy: Callable[[], EngineProcess], *, rows: int, least: int, most: int, idle_s: float
    ) -> None:
        self.name = name
        self.copies = [make_copy() for _ in range(most)]
        self._rows, self._least, self._idle_s = rows, least, idle_s
        #: Tasks that start copies, by the index of the copy. A copy without one is not wanted.
        self._starting: dict[int, asyncio.Task[None]] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        #: When each wanted copy was last needed.
        self._needed_s: dict[int, float] = {}
        self._on_ready: Callable[[], None] = lambda: None

    @property
    def is_up(self) -> bool:
        return any(copy.is_up for copy in self.copies)

    @property
    def max_concurrency(self) -> int:
        """Return the sum over the running copies; before the first one, what that will take."""
        return max(self._rows, self.placed.capacity)

    @property
    def placed(self) -> Placed:
        """Return how many copies there are, for the metrics."""
        running = [copy for copy in self.copies if copy.is_up]
        return Placed(len(self._starting), len(running), sum(copy.host.capacity for copy in running))

    def why_not_ready(self, model: str) -> str | None:
        return self.copies[0].why_not_ready(model)

    def lora_names(self, model: str) -> Collection[str] | None:
        return self.copies[0].lora_names(model)

    def batch_key(self, model: str, width: int, height: int) -> str:
        return self.copies[0].batch_key(model, width, height)

    def on_ready(self, call: Callable[[], None]) -> None:
        """Call this whenever a copy has become ready."""
        self._on_ready = call

    async def start(self) -> None:
        """Start the least number of copies, without waiting for them: the cluster may have to add machines first."""
        self.scale(0, 0)

    async def stop(self) -> None:
        tasks = [*self._starting.values(), *self._stopping]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._starting.clear()
        await asyncio.gather(*(copy.stop() for copy in self.copies))

    async def generate(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        """Generate on any copy that is up. Workers use the copies themselves."""
        copy = next((copy for copy in self.copies if copy.is_up), None)
        if copy is None:
            raise EngineLost(f"{THE_ENGINE} is starting; retry in a moment", retry_after_s=2)
        return await copy.generate(model, request, on_progress)

    def scale(self, waiting: int, running: int) -> None:
        """Start and stop copies, for these numbers of jobs.

        Copies that no machine has room for yet count, so that the autoscaler of the cluster adds machines for them.
        """
        now_s = asyncio.get_running_loop().time()
        wanted = min(len(self.copies), max(self._least, ceil((waiting + running) / self._rows)))
        unwanted = [index for index in range(len(self.copies)) if index not in self._starting]
        for index in unwanted[: max(0, wanted - len(self._starting))]:
            log.info("%s: asking for copy %d, for %d waiting and %d running jobs", self.name, index, waiting, running)
            self._starting[index] = asyncio.create_task(self._start(index))
            self._needed_s[index] = now_s
        surplus = len(self._starting) - wanted
        # The last ones first, so that the work gathers on the first ones.
        for index in sorted(self._starting, reverse=True):
            if surplus <= 0 or not self.copies[index].is_idle:
                self._needed_s[index] = now_s
                continue
            surplus -= 1
            if now_s - self._needed_s[index] >= self._idle_s:
                self._end(index)

    async def _start(self, index: int) -> None:
        try:
            await self.copies[index].start()
        except (EngineError, OSError) as error:
            log.error("copy %d of engine %s did not start, will retry: %s", index, self.name, error)
        self._on_ready()

    def _end(self, index: int) -> None:
        log.info("%s: stopping copy %d, which has been idle for %g s", self.name, index, self._idle_s)
        self._starting.pop(index).cancel()
        task = asyncio.create_task(self.copies[index].stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
