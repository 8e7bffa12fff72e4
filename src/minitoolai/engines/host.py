"""Where the child of an engine runs, apart from the messages to it.

The protocol side (`HostClient`) knows the engine: who waits for a result, what is progress, what counts as a hang. An
`EngineHost` knows the place: it starts a child there, starts it again when it ends, and carries messages. The loop in
the child is the same everywhere. `ChildHost` runs it as a child process of this process; `RayHost` (engines/ray) on any
machine of a Ray cluster.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from typing import Any, Protocol

from minitoolai.engines.child_process import FRAME_HEADER, ChildProcess, child_environment, cpu_clock, to_frame

log = logging.getLogger(__name__)


class HostClient(Protocol):
    """The protocol side of one child."""

    #: Look for a hang this often.
    check_every_s: float

    async def load(self) -> None:
        """Tell a new child what to load and wait until it is ready. Raises EngineError."""

    def on_event(self, message: bytes) -> None:
        """Handle a message of the child, encoded as msgpack."""

    def on_end(self, *, is_lost: bool) -> None:
        """Fail all that wait: the child has ended. `is_lost`: with its machine, so no request is at fault."""

    def why_hung(self) -> str | None:
        """Return why the child counts as hanging, so that its host kills it, or None."""


class EngineHost(Protocol):
    """One child of an engine in its place. It is started again whenever it ends."""

    name: str
    #: How often the child was started again.
    restarts: int
    #: Loaded and ready.
    is_up: bool
    #: It may be paused for a moment, because its results are not urgent.
    is_background: bool
    #: It runs on another machine and can be stopped while others go on. Requests that it drops have not failed.
    is_remote: bool

    @property
    def pid(self) -> int | None:
        """Return the process ID of the child on its machine, or None if it does not run."""

    @property
    def capacity(self) -> int:
        """Return how many requests the child takes now: 0 while it is not up."""

    def cpu_s(self) -> float:
        """Return the CPU time that the child has used."""

    async def start(self) -> None:
        """Start the child and wait until it is ready. Raises EngineError."""

    async def stop(self) -> None:
        """Kill the child. It holds no state that must be saved."""

    def send(self, command: Any) -> None:
        """Send a command without waiting. If the child hangs, commands stay in memory until it is killed."""

    def kill(self) -> None:
        """Kill a child that hangs; the host then starts it again."""


#: Called with a name for the log, the module of the child's loop, its protocol side, and how many requests it takes.
MakeHost = Callable[[str, str, HostClient, int], EngineHost]


class ChildHost(ChildProcess):
    """A Python module run as a child process that exchanges length-prefixed messages with this process."""

    is_remote = False

    def __init__(self, name: str, module: str, client: HostClient, rows: int = 1) -> None:
        """`module` is run as `python -m MODULE`."""
        super().__init__(name)
        self._module, self._client, self._rows = module, client, rows
        self._reader: asyncio.Task[None] | None = None
        self._read_cpu_s: Callable[[], float] = float

    @property
    def capacity(self) -> int:
        return self._rows if self.is_up else 0

    def cpu_s(self) -> float:
        return self._read_cpu_s()

    def send(self, command: Any) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(to_frame(command))

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await super().stop()

    async def _start_once(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._module, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=child_environment()
        )
        self._process, self._read_cpu_s = process, cpu_clock(process.pid)
        self._reader = asyncio.create_task(self._read_events(process))
        await self._client.load()
        self.is_up = True

    async def _wait_for_exit(self, process: Process) -> None:
        """Wait for the end of the child's output, and kill the child if it hangs."""
        assert self._reader is not None
        while not self._reader.done():
            await asyncio.wait([self._reader], timeout=self._client.check_every_s)
            if process.returncode is None and (reason := self._client.why_hung()) is not None:
                log.error("%s hangs (%s): killing process %d", self.name, reason, process.pid)
                process.kill()

    async def _read_events(self, process: Process) -> None:
        assert process.stdout is not None
        read, on_event = process.stdout.readexactly, self._client.on_event
        try:
            while True:
                header = await read(FRAME_HEADER.size)
                on_event(await read(FRAME_HEADER.unpack(header)[0]))
        except (asyncio.IncompleteReadError, OSError):
            self.is_up = False
            self._client.on_end(is_lost=False)
