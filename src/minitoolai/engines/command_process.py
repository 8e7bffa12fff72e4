"""A child process that handles commands in order, one reply for each command that expects one.

Used for voices and for transcription. A child that hangs is killed, and the supervisor restarts it.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio.subprocess import Process
from collections import deque
from typing import Any, Generic, TypeVar

from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineError, EngineTimeout
from minitoolai.engines.child_process import HangDetector, MessageChildProcess

log = logging.getLogger(__name__)

#: CPU time for one command, or time without any, after which a child hangs. Loading voices takes three seconds, a
#: sentence less than one.
HANG_AFTER_S = 30.0
CHECK_EVERY_S = 1.0
Reply = TypeVar("Reply")


class CommandProcess(MessageChildProcess, Generic[Reply]):
    """Sends commands and returns a future for each reply. The first command loads what the child needs."""

    #: Ends the message of a command that hangs.
    after_hang = "nothing was charged"

    def __init__(
        self,
        name: str,
        reply_type: type[Reply],
        load: Any,
        *,
        hang_after_s: float = HANG_AFTER_S,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        super().__init__(name, reply_type)
        self._load = load
        self._hang_after_s, self._check_every_s = hang_after_s, check_every_s
        #: Judges the command at the head of `_pending`.
        self._hangs: HangDetector
        self._is_hung = False
        self._pending: deque[asyncio.Future[Reply]] = deque()

    def request(self, command: Any) -> asyncio.Future[Reply]:
        """Send a command and return the future of its reply. Cancelling the future discards the reply only."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        if not self._pending:
            self._hangs.begin(loop.time())
        self._pending.append(future)
        self.send(command)
        return future

    def check_loaded(self, reply: Reply) -> None:
        """Raise EngineError if the reply to the first command is an error."""
        raise NotImplementedError

    async def _start_once(self) -> None:
        process = await self._spawn()
        self._hangs, self._is_hung = HangDetector(process.pid, self._hang_after_s), False
        loaded = self.request(self._load)
        while not loaded.done():
            await self._check(loaded, process)
        self.check_loaded(loaded.result())
        self.is_up = True

    async def _wait_for_exit(self, process: Process) -> None:
        """Wait for the end of the child, and kill it if it hangs."""
        assert self._reader is not None
        while not self._reader.done():
            await self._check(self._reader, process)

    async def _check(self, awaited: asyncio.Future[Any], process: Process) -> None:
        """Wait for `awaited`, but not for long; then kill the child if it hangs."""
        await asyncio.wait([awaited], timeout=self._check_every_s)
        now_s = asyncio.get_running_loop().time()
        if self._pending and process.returncode is None and self._hangs.is_hung(now_s):
            log.error("%s hangs: one command has taken too long; killing process %d", self.name, process.pid)
            self._is_hung = True
            process.kill()

    def _on_event(self, event: Reply) -> None:
        future = self._pending.popleft()
        # The next pending command begins now.
        self._hangs.begin(asyncio.get_running_loop().time())
        if not future.done():
            future.set_result(event)

    def _on_disconnect(self) -> None:
        if self._is_hung and self._pending:
            _fail(self._pending.popleft(), EngineTimeout(f"{THE_ENGINE} timed out; {self.after_hang}"))
        while self._pending:
            error = f"{THE_ENGINE} failed and is restarting; retry in a moment"
            _fail(self._pending.popleft(), EngineError(error, retry_after_s=2))


def _fail(future: asyncio.Future[Any], error: EngineError) -> None:
    if not future.done():
        future.set_exception(error)
