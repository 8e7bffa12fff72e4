"""Supervise what runs apart from this process: start it, restart it with exponential backoff, stop it."""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import NamedTuple

from minitoolai.core.backoff import Backoff
from minitoolai.core.errors import EngineError

log = logging.getLogger(__name__)

FIRST_RESTART_S = 0.1
LONGEST_RESTART_S = 10.0
#: Restart without delay what ran for longer than this.
HEALTHY_AFTER_S = 60.0
#: Everything that this process supervises, started or not.
_supervised: weakref.WeakSet[Supervised] = weakref.WeakSet()


class RunningChildren(NamedTuple):
    """The children of one name: their resident memory in bytes, and how often one was restarted."""

    memory: int
    restarts: int


def supervised() -> list[Supervised]:
    """Return everything that this process supervises."""
    return list(_supervised)


def running_children() -> dict[str, RunningChildren]:
    """Return the children of this process by name, for the metrics. Memory is known on Linux only."""
    found: dict[str, RunningChildren] = {}
    for child in _supervised:
        memory, restarts = found.get(child.name, (0, 0))
        found[child.name] = RunningChildren(memory + child.resident_bytes(), restarts + child.restarts)
    return found


class Supervised:
    """Something that is started again whenever it ends. Subclasses implement what begins with an underscore."""

    #: Keep trying after a failed first start.
    retries_first_start = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_up = False
        self.restarts = 0
        self._starting: asyncio.Task[None] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._backoff = Backoff(FIRST_RESTART_S, LONGEST_RESTART_S)
        _supervised.add(self)

    async def start(self) -> None:
        """Start it and wait until it is ready; later callers wait for the first one. Raises EngineError.

        After a failure, the supervisor keeps trying in the background if `retries_first_start` is set.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_supervised())
        await asyncio.shield(self._starting)

    async def _start_supervised(self) -> None:
        try:
            await self._start_once()
        except Exception:
            if self.retries_first_start:
                self._supervisor = asyncio.create_task(self._supervise())
            else:
                self._starting = None
            raise
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Kill it. It holds no state that must be saved."""
        self.is_up = False
        tasks = [task for task in (self._starting, self._supervisor) if task is not None]
        self._starting = self._supervisor = None
        for task in tasks:
            task.cancel()
        # Wait for them, because a task that is just starting something stores it before it ends.
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._release()

    def resident_bytes(self) -> int:
        """Return its resident memory, or 0 if that is unknown."""
        return 0

    async def _start_once(self) -> None:
        """Start it, and wait until it is ready. Raises EngineError."""
        raise NotImplementedError

    async def _release(self) -> None:
        """End what `_start_once` started."""
        raise NotImplementedError

    async def _wait_for_end(self) -> str | None:
        """Return how it ended, once it has or cannot be used any more. None without waiting if it did not start."""
        raise NotImplementedError

    async def _supervise(self) -> None:
        """Start it again whenever it ends, with exponential backoff if it keeps ending early."""
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            try:
                how = await self._wait_for_end()
            except Exception:
                log.exception("%s: watching it failed unexpectedly", self.name)
                how = "cannot be watched any more"
            if how is not None:
                log.error("%s %s after %.1f s; restarting it", self.name, how, loop.time() - started_s)
            if loop.time() - started_s > HEALTHY_AFTER_S:
                self._backoff.record_success()
            else:
                await asyncio.sleep(self._backoff.record_failure())
            self.restarts += 1
            try:
                await self._start_once()
            except (EngineError, OSError) as error:
                log.error("%s failed to restart: %s", self.name, error)
            except Exception:
                log.exception("%s failed to restart unexpectedly, will retry", self.name)
