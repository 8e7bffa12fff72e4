"""A bounded number at work, a bounded number waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from minitoolai.core.errors import EngineFull
from minitoolai.engines.protocols import ChatAnswer


class ConcurrencyLimit:
    """A bounded number at work, a bounded number waiting; more is refused at once."""

    def __init__(self, at_work: int, waiting: int, name: str) -> None:
        self._semaphore = asyncio.Semaphore(at_work)
        self._at_work = at_work
        self._room = at_work + waiting
        self._name = name
        self.taken = 0

    @property
    def is_busy(self) -> bool:
        """Whether the next would have to wait."""
        return self.taken >= self._at_work

    def check(self) -> None:
        """NoRoom if even the queue is full."""
        if self.taken >= self._room:
            raise EngineFull(
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

    def release(self) -> None:
        """The slot is free again."""
        self.taken -= 1
        self._semaphore.release()


class SlottedAnswer:
    """An answer that occupies a slot until it is closed."""

    def __init__(self, answer: ChatAnswer, slots: ConcurrencyLimit) -> None:
        self._answer = answer
        self._slots: ConcurrencyLimit | None = slots

    async def next_bytes(self) -> bytes:
        return await self._answer.next_bytes()

    def take(self) -> bytes | None:
        return self._answer.take()

    def listen(self, listener: Callable[[], None] | None, sink: Callable[[bytes], None] | None = None) -> bool:
        return self._answer.listen(listener, sink)

    async def read(self) -> bytes:
        return await self._answer.read()

    async def close(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()
            await self._answer.close()
