"""Supervise child processes: start, restart with exponential backoff, stop, detect hangs, exchange messages.

The process pools of speech and images and the embedded llama.cpp all build on `ChildProcess`. A crash, a hang or the
memory of a child then affects no other part of the server.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import signal
import struct
import sys
import time
import weakref
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from minitoolai.core.backoff import Backoff
from minitoolai.core.errors import EngineError
from minitoolai.core.parent import die_with_parent

log = logging.getLogger(__name__)

FIRST_RESTART_S = 0.1
LONGEST_RESTART_S = 10.0
#: Restart a child that ran for longer than this without delay.
HEALTHY_AFTER_S = 60.0
POLL_S = 0.5
#: Every child process of this process, started or not.
_children: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


class RunningChildren(NamedTuple):
    """The child processes of one name: their resident memory in bytes, and how often one was restarted."""

    memory: int
    restarts: int


def running_children() -> dict[str, RunningChildren]:
    """Return the child processes of this process by name, for the metrics. Memory is known on Linux only."""
    found: dict[str, RunningChildren] = {}
    for child in _children:
        memory, restarts = found.get(child.name, (0, 0))
        found[child.name] = RunningChildren(memory + _resident_bytes(child.pid), restarts + child.restarts)
    return found


def pause_background() -> bool:
    """Stop the running children that work in the background. Return False if there is none."""
    return _signal_background(signal.SIGSTOP)


def resume_background() -> None:
    """Continue the children that `pause_background` stopped."""
    _signal_background(signal.SIGCONT)


def _signal_background(number: signal.Signals) -> bool:
    processes = [child._process for child in _children if child.is_background]
    running = [process for process in processes if process is not None and process.returncode is None]
    for process in running:
        process.send_signal(number)
    return bool(running)


def _resident_bytes(pid: int | None) -> int:
    if pid is None:
        return 0
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * resource.getpagesize()


class ChildProcess:
    """A child process that is restarted whenever it exits. Subclasses implement `_start_once`."""

    #: Keep trying after a failed first start.
    retries_first_start = True
    #: It may be paused for a moment, because its results are not urgent.
    is_background = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_up = False
        self.restarts = 0
        self._process: Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._backoff = Backoff(FIRST_RESTART_S, LONGEST_RESTART_S)
        _children.add(self)

    @property
    def pid(self) -> int | None:
        """Return the process ID, for tests that kill the child."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the child and wait until it is ready; later callers wait for the first one. Raises EngineError.

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
        """Kill the child. It holds no state that must be saved."""
        self.is_up = False
        tasks = [task for task in (self._starting, self._supervisor) if task is not None]
        self._starting = self._supervisor = None
        for task in tasks:
            task.cancel()
        # Wait for them, because a task that is just spawning a child stores it before it ends.
        await asyncio.gather(*tasks, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _start_once(self) -> None:
        """Spawn the child, store it in `_process`, and wait until it is ready. Raises EngineError."""
        raise NotImplementedError

    async def _wait_for_exit(self, process: Process) -> None:
        """Return once the child has exited or cannot be used any more."""
        await process.wait()

    async def _supervise(self) -> None:
        """Restart the child whenever it exits, with exponential backoff if it keeps exiting early."""
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            if self._process is not None:
                await self._wait_for_exit(self._process)
                status, ran_s = await self._process.wait(), loop.time() - started_s
                log.error("%s exited with status %s after %.1f s; restarting it", self.name, status, ran_s)
            if loop.time() - started_s > HEALTHY_AFTER_S:
                self._backoff.record_success()
            else:
                await asyncio.sleep(self._backoff.record_failure())
            self.restarts += 1
            try:
                await self._start_once()
            except (EngineError, OSError) as error:
                log.error("%s failed to restart: %s", self.name, error)


class MessageChildProcess(ChildProcess):
    """A Python module run as a child process that exchanges length-prefixed messages with this process.

    Subclasses implement `_on_event` and `_on_disconnect`.
    """

    #: Run as `python -m MODULE`.
    module: str

    def __init__(self, name: str, event_type: Any) -> None:
        super().__init__(name)
        self._decode = msgspec.msgpack.Decoder(event_type).decode
        self._reader: asyncio.Task[None] | None = None

    def send(self, command: Any) -> None:
        """Send a command without waiting. If the child hangs, commands stay in memory until it is killed."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(to_frame(command))

    async def stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await super().stop()

    async def _spawn(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self.module, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=child_environment()
        )
        self._process = process
        self._reader = asyncio.create_task(self._read_events(process))
        return process

    async def _wait_for_exit(self, process: Process) -> None:
        assert self._reader is not None
        await asyncio.wait([self._reader])

    async def _read_events(self, process: Process) -> None:
        assert process.stdout is not None
        try:
            while True:
                header = await process.stdout.readexactly(FRAME_HEADER.size)
                self._on_event(self._decode(await process.stdout.readexactly(FRAME_HEADER.unpack(header)[0])))
        except (asyncio.IncompleteReadError, OSError):
            self.is_up = False
            self._on_disconnect()

    def _on_event(self, event: Any) -> None:
        raise NotImplementedError

    def _on_disconnect(self) -> None:
        """Fail pending work: the output of the child has ended."""
        raise NotImplementedError


class HeartbeatMonitor:
    """Detects a child that sends nothing, not even heartbeats, or that has work but makes no progress."""

    def __init__(self, silence_s: float, stall_s: float) -> None:
        self._silence_s, self._stall_s = silence_s, stall_s
        self._heard_s = self._progress_s = self._checked_s = 0.0

    def reset(self) -> None:
        """Begin to watch a new child."""
        self._heard_s = self._progress_s = self._checked_s = asyncio.get_running_loop().time()

    def record_message(self) -> None:
        """Note that the child sent something."""
        self._heard_s = asyncio.get_running_loop().time()

    def record_progress(self) -> None:
        """Note that work advanced or began."""
        self._progress_s = asyncio.get_running_loop().time()

    def silent_s(self) -> float:
        """Return how long the child has sent nothing."""
        return asyncio.get_running_loop().time() - self._heard_s

    def describe_hang(self, *, has_work: bool) -> str | None:
        """Return why the child counts as hanging, or None. Call this every POLL_S."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._checked_s > POLL_S + self._silence_s / 2:
            # This process was suspended: messages that the child sent meanwhile are still unread.
            self._heard_s = self._progress_s = now_s
        self._checked_s = now_s
        if now_s - self._heard_s > self._silence_s:
            return f"it sent nothing for {now_s - self._heard_s:.0f} s"
        if has_work and now_s - self._progress_s > self._stall_s:
            return f"it made no progress for {now_s - self._progress_s:.0f} s"
        return None


class HangDetector:
    """Tells a child that hangs from one that is slow on a busy machine, by the CPU time that it gets.

    A task hangs if it has used `limit_s` of CPU time (an endless loop), or none for `limit_s` (blocked or stopped). A
    child that waits for a busy CPU advances a little, and may take as long as it needs. On systems without a clock for
    the CPU time of another process, only elapsed time counts.
    """

    def __init__(self, pid: int, limit_s: float) -> None:
        self._clock = _cpu_clock(pid)
        self._limit_s = limit_s
        self.begin(0.0)

    def begin(self, now_s: float) -> None:
        """Begin to measure the child's next task."""
        self._began_s = self._advanced_s = now_s
        self._cpu_at_start_s = self._cpu_s = self._read_cpu_s()

    def is_hung(self, now_s: float) -> bool:
        """Return True if the current task hangs. Call this about once per second."""
        cpu_s = self._read_cpu_s()
        if cpu_s > self._cpu_s:
            self._cpu_s, self._advanced_s = cpu_s, now_s
        is_endless = cpu_s - self._cpu_at_start_s > self._limit_s and now_s - self._began_s > self._limit_s
        return is_endless or now_s - self._advanced_s > self._limit_s

    def _read_cpu_s(self) -> float:
        if self._clock is None:
            return 0.0
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            # The child has exited, which its closed output reports too.
            return 0.0


def _cpu_clock(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    clock = ctypes.c_int()
    return clock.value if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)) == 0 else None


#: Let the OpenMP threads of llama.cpp and PyTorch sleep soon while they wait for each other. By default they spin for
#: several milliseconds, and on a busy machine take the CPU from the thread they wait for. Sleeping without any spinning
#: would cost a fifth of the speed on an idle machine; these rounds take about 25 µs and cost hardly any.
_OPENMP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
#: NumPy's matrices are small here. The threads of its OpenBLAS always spin while they wait: on a busy machine, two of
#: them used 13 times the CPU time of one to search an image for marks, and took longer.
_OPENBLAS = {"OPENBLAS_NUM_THREADS": "1"}


def child_environment() -> dict[str, str]:
    """Return the environment for a child: this process's, with _OPENMP unless the operator has set one of its keys.

    The same for _OPENBLAS. The libraries read these variables when they are loaded, so they must be set when the child
    starts.
    """
    environment = dict(os.environ)
    for defaults in (_OPENMP, _OPENBLAS):
        if not defaults.keys() & os.environ.keys():
            environment |= defaults
    return environment


# ── messages: a length, then msgpack ──────────────────────────────────────────────────────────────────────────

FRAME_HEADER = struct.Struct("<I")


def to_frame(message: Any) -> bytes:
    """Encode a message, preceded by its length."""
    body = msgspec.msgpack.encode(message)
    return FRAME_HEADER.pack(len(body)) + body


def read_frame(stream: IO[bytes]) -> bytes | None:
    """Wait for the next message and return it without its length, or None at the end of the stream."""
    header = stream.read(FRAME_HEADER.size)
    return stream.read(FRAME_HEADER.unpack(header)[0]) if len(header) == FRAME_HEADER.size else None


# ── in the child ──────────────────────────────────────────────────────────────────────────────────────────────


def enter_child(niceness: int = 0) -> IO[bytes]:
    """Set up a message child process, and return the stream for its events.

    Redirects standard output to standard error, so that output of a library cannot corrupt the messages.
    """
    die_with_parent()
    os.nice(niceness)
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return events
