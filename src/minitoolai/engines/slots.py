"""A bounded number at work, a bounded number waiting."""

from __future__ import annotations

import asyncio

from minitoolai.core.errors import Overloaded


class Slots:
    """A bounded number at work, a bounded number waiting; more is refused at once."""

    def __init__(self, at_work: int, waiting: int, name: str) -> None:
        self._semaphore = asyncio.Semaphore(at_work)
        self._room = at_work + waiting
        self._name = name
        self.taken = 0

    def check(self) -> None:
        """Overloaded if even the queue is full."""
        if self.taken >= self._room:
            raise Overloaded(
                f"{self._name} has {self.taken} requests at work and waiting, its most; try again", retry_after_s=2
            )

    async def take(self) -> None:
        """Wait for a slot, in order of arrival."""
        self.check()
        self.taken += 1
        try:
            await self._semaphore.acquire()
        except BaseException:
            self.taken -= 1
            raise

    def give_back(self) -> None:
        """The slot is free again."""
        self.taken -= 1
        self._semaphore.release()
