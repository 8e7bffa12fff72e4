"""The actor that runs a child on a machine of the cluster and carries its messages.

The child is the same program as beside the server. It is a process of its own here, too, so that its crash differs
from the loss of the machine.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

import ray

from minitoolai import __version__
from minitoolai.engines.child_process import child_environment, cpu_clock, read_frame, resident_bytes

#: Answer at least this often, so that the host knows that the machine is there.
ANSWER_EVERY_S = 1.0
#: Steps and heartbeats are gathered for this long, because each answer costs a millisecond of CPU. Results are larger.
GATHER_S, SMALL_BYTES = 0.2, 256


class Started(NamedTuple):
    """A child that runs: its process ID, its machine in the cluster, and the version of the program there."""

    pid: int
    node_id: str
    version: str


class News(NamedTuple):
    """What a child has said since the last answer: whole messages, and how the child is."""

    messages: list[bytes]
    cpu_s: float
    memory: int
    #: The exit status; None while it runs or has messages left.
    status: int | None


class Relay:
    """One child, and queues in both directions."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._orders: SimpleQueue[bytes] = SimpleQueue()
        self._messages: list[bytes] = []
        self._is_over = False
        self._heard, self._is_urgent = asyncio.Event(), asyncio.Event()
        self._read_cpu_s: Callable[[], float] = float

    async def start(self) -> Started:
        """Start the child."""
        child = subprocess.Popen(  # noqa: ASYNC220, S603 - this very Python; it takes a millisecond
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
        )
        self._child, self._read_cpu_s = child, cpu_clock(child.pid)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(child, loop), daemon=True).start()
        threading.Thread(target=self._write, args=(child,), daemon=True).start()
        return Started(child.pid, ray.get_runtime_context().get_node_id(), __version__)

    async def send(self, frames: bytes) -> None:
        """Pass commands on. A child that hangs leaves them in memory until it is killed."""
        self._orders.put(frames)

    async def receive(self) -> News:
        """Wait for messages, but no longer than ANSWER_EVERY_S; after a small one, a little for more."""
        assert self._child is not None
        await _wait_for(self._heard, ANSWER_EVERY_S)
        if self._messages:
            await _wait_for(self._is_urgent, GATHER_S)
        messages, self._messages = self._messages, []
        status = self._child.wait() if self._is_over else None
        if status is None:
            self._heard.clear()
            self._is_urgent.clear()
        return News(messages, self._read_cpu_s(), resident_bytes(self._child.pid), status)

    async def kill(self) -> None:
        """Kill a child that hangs."""
        if self._child is not None:
            self._child.kill()

    def _read(self, child: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
        assert child.stdout is not None
        while (message := read_frame(child.stdout)) is not None:
            loop.call_soon_threadsafe(self._hear, message)
        loop.call_soon_threadsafe(self._hear, None)

    def _hear(self, message: bytes | None) -> None:
        if message is None:
            self._is_over = True
        else:
            self._messages.append(message)
        self._heard.set()
        if message is None or len(message) >= SMALL_BYTES:
            self._is_urgent.set()

    def _write(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        while True:
            frames = self._orders.get()
            try:
                child.stdin.write(frames)
                child.stdin.flush()
            except OSError:
                # The child has ended, which its output reports.
                return


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
