"""Child processes: spawn, restart and stop them, detect hangs, encode messages.

`ChildProcess` is what the hosts of engines (host.py) and the embedded llama.cpp build on. A crash, a hang or the memory
of a child then affects no other part of the server.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import struct
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from minitoolai.core.parent import die_with_parent
from minitoolai.engines.supervision import Supervised, supervised

POLL_S = 0.5


def pause_background() -> bool:
    """Stop the running children that work in the background. Return False if there is none."""
    return _signal_background(signal.SIGSTOP)


def resume_background() -> None:
    """Continue the children that `pause_background` stopped."""
    _signal_background(signal.SIGCONT)


def _signal_background(number: signal.Signals) -> bool:
    children = [one for one in supervised() if isinstance(one, ChildProcess) and one.is_background]
    processes = [child._process for child in children]
    running = [process for process in processes if process is not None and process.returncode is None]
    for process in running:
        process.send_signal(number)
    return bool(running)


def resident_bytes(pid: int | None) -> int:
    """Return the resident memory of a process; 0 if it has ended, and on systems other than Linux."""
    if pid is None:
        return 0
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * resource.getpagesize()


class ChildProcess(Supervised):
    """A child process that is restarted whenever it exits. Subclasses implement `_start_once`, which spawns it."""

    #: It may be paused for a moment, because its results are not urgent.
    is_background = False

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        """Return the process ID, for tests that kill the child."""
        return self._process.pid if self._process else None

    def resident_bytes(self) -> int:
        return resident_bytes(self.pid)

    async def _release(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _wait_for_end(self) -> str | None:
        if self._process is None:
            return None
        await self._wait_for_exit(self._process)
        return f"exited with status {await self._process.wait()}"

    async def _wait_for_exit(self, process: Process) -> None:
        """Return once the child has exited or cannot be used any more."""
        await process.wait()


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

    def __init__(self, read_cpu_s: Callable[[], float], limit_s: float) -> None:
        """`read_cpu_s` returns the CPU time of the child, see `cpu_clock`."""
        self._read_cpu_s = read_cpu_s
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


def cpu_clock(pid: int) -> Callable[[], float]:
    """Return a function that reads the CPU time of a process. It stays at 0 on systems without a clock for that."""
    clock = _cpu_clock(pid)

    def read_s() -> float:
        if clock is None:
            return 0.0
        try:
            return time.clock_gettime(clock)
        except OSError:
            # The child has exited, which its closed output reports too.
            return 0.0

    return read_s


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
    if len(header) < FRAME_HEADER.size:
        return None
    (size,) = FRAME_HEADER.unpack(header)
    body = stream.read(size)
    return body if len(body) == size else None


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
