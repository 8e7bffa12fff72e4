"""Tell a child process that hangs from one that is slow because the machine is busy, by the processor time it gets."""

from __future__ import annotations

import ctypes
import sys
import time


class HangDetector:
    """Judges one task of a child after the other.

    A task hangs once it has used `limit_s` of processor time (an endless loop), or has used none for `limit_s` (blocked
    or stopped). A child that waits for a busy processor advances a little, and may take as long as it needs.
    Where the system has no clock of another process's processor time, wall time alone decides.
    """

    def __init__(self, pid: int, limit_s: float) -> None:
        self._clock = _processor_clock(pid)
        self._limit_s = limit_s
        self.begin(0.0)

    def begin(self, now_s: float) -> None:
        """The child's next task starts now."""
        self._began_s = self._advanced_s = now_s
        self._began_with_s = self._used_s = self._processor_s()

    def is_hung(self, now_s: float) -> bool:
        """Whether the task that began last hangs; called every second or so while one is in progress."""
        used_s = self._processor_s()
        if used_s > self._used_s:
            self._used_s, self._advanced_s = used_s, now_s
        is_endless = used_s - self._began_with_s > self._limit_s and now_s - self._began_s > self._limit_s
        return is_endless or now_s - self._advanced_s > self._limit_s

    def _processor_s(self) -> float:
        if self._clock is None:
            return 0.0
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            # The child is gone, which its pipe says as well.
            return 0.0


def _processor_clock(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    clock = ctypes.c_int()
    return clock.value if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)) == 0 else None
