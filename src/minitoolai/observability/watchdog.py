"""Measure for how long one piece of work blocks the event loop, and log its name if that is too long.

While the loop is blocked, no other request is served. A timer on the loop measures how late it fires. A thread notices
while the loop is blocked, and reads from the stack of the loop's thread which request or task is running; requests pay
nothing for this.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.http.types import Scope

log = logging.getLogger(__name__)

#: The timer fires this often. Shorter pauses are not measured.
BEAT_S: Final = 0.02
#: Pauses longer than this are logged.
LIMIT_S: Final = 0.1
#: The metric is the longest pause of this many windows.
WINDOW_S: Final = 10.0
WINDOWS: Final = 6
#: At most one log line in this time: a loop that is blocked all the time must not fill the log.
LOG_EVERY_S: Final = 10.0

_RUN_ASGI: Final = RequestResponseCycle.run_asgi.__code__
_PACKAGE: Final = __name__.partition(".")[0]
#: Modules of the loop itself: what a callback or task does is on the stack below their frames.
_LOOP: Final = ("asyncio.base_events", "asyncio.events", "asyncio.runners", "uvloop")


class Watchdog:
    """Watches the event loop of this process."""

    def __init__(
        self,
        route_of: Callable[[Scope], str | None],
        *,
        log_every_s: float = LOG_EVERY_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`route_of` returns the route of a request, such as `/v1/models/{name}`, or None if it is not known yet."""
        self._route_of = route_of
        self._log_every_s = log_every_s
        self._now_s = now_s
        self._beat_s = now_s()
        self._cpu_s = time.thread_time()
        #: The longest pause of each window, the current one last.
        self._longest: deque[float] = deque([0.0], WINDOWS)
        self._window_s = self._beat_s
        self._culprit: str | None = None
        self._logged_s = -log_every_s
        self._unlogged = 0
        self._stop = threading.Event()

    def longest_s(self) -> float:
        """Return the longest pause of the last minute."""
        self._rotate(self._now_s())
        return max(self._longest)

    async def run(self) -> None:
        """Watch until cancelled."""
        self._stop.clear()
        self._beat_s, self._cpu_s = self._now_s(), time.thread_time()
        thread = threading.Thread(
            target=self._look, args=(threading.get_ident(),), name="event-loop-watchdog", daemon=True
        )
        thread.start()
        self._loop = asyncio.get_running_loop()
        self._schedule()
        try:
            await self._loop.create_future()
        finally:
            self._timer.cancel()
            self._stop.set()

    def _schedule(self) -> None:
        # A timer instead of a task that sleeps: half the work, 50 times a second.
        self._timer = self._loop.call_later(BEAT_S, self._tick)

    def _tick(self) -> None:
        self._schedule()
        self.beat()

    def beat(self) -> None:
        """Note that the loop runs."""
        now_s, cpu_s = self._now_s(), time.thread_time()
        pause_s = now_s - self._beat_s - BEAT_S
        busy_s = cpu_s - self._cpu_s
        self._beat_s, self._cpu_s = now_s, cpu_s
        self._rotate(now_s)
        self._longest[-1] = max(self._longest[-1], pause_s)
        culprit, self._culprit = self._culprit, None
        if pause_s > LIMIT_S:
            self._report(pause_s, busy_s, culprit, now_s)

    def _rotate(self, now_s: float) -> None:
        passed = int((now_s - self._window_s) / WINDOW_S)
        if passed > 0:
            self._window_s += passed * WINDOW_S
            self._longest.extend([0.0] * min(passed, WINDOWS))

    def _report(self, pause_s: float, busy_s: float, culprit: str | None, now_s: float) -> None:
        if now_s - self._logged_s < self._log_every_s:
            self._unlogged += 1
            return
        more = f"; {self._unlogged} more pauses since the last such line" if self._unlogged else ""
        self._logged_s, self._unlogged = now_s, 0
        log.warning(
            "the event loop was blocked for %.0f ms, %.0f ms of CPU time in its thread, by %s%s",
            pause_s * 1000,
            busy_s * 1000,
            culprit or "nothing known (perhaps the machine was busy elsewhere)",
            more,
        )

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self, loop_thread: int) -> None:
        """Find out which work blocks the loop, as soon as it is blocked for too long."""
        while not self._stop.wait(LIMIT_S / 4):
            if self._culprit is None and self._now_s() - self._beat_s > LIMIT_S:
                frame = sys._current_frames().get(loop_thread)
                if frame is not None:
                    self._culprit = self._describe(frame)

    def _describe(self, frame: FrameType) -> str | None:
        """Return the route of the running request, or the task, and the innermost function of this package.

        None if no callback is running: then the thread waits for a processor.
        """
        ours: str | None = None
        outermost = frame
        current: FrameType | None = frame
        while current is not None:
            module = current.f_globals.get("__name__", "")
            if module in _LOOP:
                if current is frame:
                    return None
                break
            if module.partition(".")[0] == _PACKAGE:
                ours = ours or f"{current.f_code.co_qualname} ({module}:{current.f_lineno})"
                outermost = current
            if current.f_code is _RUN_ASGI:
                return f"{self._route(current.f_locals['self'].scope)} in {ours or frame.f_code.co_qualname}"
            current = current.f_back
        if ours is None:
            return f"{frame.f_code.co_qualname} ({frame.f_globals.get('__name__', '?')}:{frame.f_lineno})"
        return f"{outermost.f_code.co_qualname} in {ours}"

    def _route(self, scope: Any) -> str:
        return f"{scope['method']} {self._route_of(scope) or 'a path without a route'}"
