"""A child process that handles commands in order, one reply for each command that expects one.

Used for voices and for transcription. A child that hangs is killed, and its host restarts it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec

from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineError, EngineTimeout
from minitoolai.engines.child_process import HangDetector
from minitoolai.engines.host import ChildHost, EngineHost, MakeHost

#: CPU time for one command, or time without any, after which a child hangs. Loading voices takes three seconds, a
#: sentence less than one.
HANG_AFTER_S = 30.0
CHECK_EVERY_S = 1.0
Reply = TypeVar("Reply")


class CommandProcess(Generic[Reply]):
    """Sends commands and returns a future for each reply. The first command loads what the child needs."""

    #: Run as `python -m MODULE`.
    module: str
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
        make_host: MakeHost = ChildHost,
    ) -> None:
        self.name = name
        self.host: EngineHost = make_host(name, self.module, self, 1)
        self.check_every_s = check_every_s
        self._decode = msgspec.msgpack.Decoder(reply_type).decode
        self._load = load
        self._hang_after_s = hang_after_s
        #: Judges the command at the head of `_pending`.
        self._hangs: HangDetector
        self._is_hung = False
        self._pending: deque[asyncio.Future[Reply]] = deque()

    @property
    def is_up(self) -> bool:
        """Return True if it takes commands now."""
        return self.host.is_up

    @property
    def restarts(self) -> int:
        """Return how often the child was restarted. A restarted one has forgotten everything."""
        return self.host.restarts

    @property
    def pid(self) -> int | None:
        """Return the process ID of the child, for tests that kill it."""
        return self.host.pid

    async def start(self) -> None:
        """Start the child and wait until it is ready. Raises EngineError."""
        await self.host.start()

    async def stop(self) -> None:
        """Kill the child."""
        await self.host.stop()

    def send(self, command: Any) -> None:
        """Send a command that gets no reply."""
        self.host.send(command)

    def request(self, command: Any) -> asyncio.Future[Reply]:
        """Send a command and return the future of its reply. Cancelling the future discards the reply only."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        if not self._pending:
            self._hangs.begin(loop.time())
        self._pending.append(future)
        self.host.send(command)
        return future

    def check_loaded(self, reply: Reply) -> None:
        """Raise EngineError if the reply to the first command is an error."""
        raise NotImplementedError

    async def load(self) -> None:
        """Load voices or models in a new child. Called by the host."""
        self._hangs, self._is_hung = HangDetector(self.host.cpu_s, self._hang_after_s), False
        loaded = self.request(self._load)
        while not loaded.done():
            await asyncio.wait([loaded], timeout=self.check_every_s)
            if self.why_hung() is not None:
                self.host.kill()
        self.check_loaded(loaded.result())

    def why_hung(self) -> str | None:
        """Return why the child counts as hanging, or None. Called by the host."""
        if not self._pending or not self._hangs.is_hung(asyncio.get_running_loop().time()):
            return None
        self._is_hung = True
        return "one command has taken too long"

    def on_event(self, message: bytes) -> None:
        """Hand a reply to who waits for it. Called by the host."""
        reply, future = self._decode(message), self._pending.popleft()
        # The next pending command begins now.
        self._hangs.begin(asyncio.get_running_loop().time())
        if not future.done():
            future.set_result(reply)

    def on_end(self, *, is_lost: bool) -> None:
        """Fail all pending commands. Called by the host."""
        if self._is_hung and self._pending:
            _fail(self._pending.popleft(), EngineTimeout(f"{THE_ENGINE} timed out; {self.after_hang}"))
        while self._pending:
            error = f"{THE_ENGINE} failed and is restarting; retry in a moment"
            _fail(self._pending.popleft(), EngineError(error, retry_after_s=2))


def _fail(future: asyncio.Future[Any], error: EngineError) -> None:
    if not future.done():
        future.set_exception(error)
