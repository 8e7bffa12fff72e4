"""Pause child processes in the background while an interactive request waits for its first token.

A low priority is not enough. Where two processors share one core, or one path to memory, a chat beside a transcription
waited 1.5 times as long for its first token, although a transcription has the priority of a background job. So it is
stopped (SIGSTOP) until the prompt has been read, but for no more than half of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from minitoolai.engines.child_process import pause_background, resume_background

#: The background may be paused this long at a time. Each second in which it runs allows another second of pause.
MAX_PAUSE_S = 1.0


class Preemption:
    """Counts the interactive requests that wait, and pauses the background while there is one (a leaky bucket)."""

    def __init__(self, pause: Callable[[], bool] = pause_background, resume: Callable[[], None] = resume_background):
        self._pause_background, self._resume_background = pause, resume
        self._waiting = 0
        #: Ends the pause. None while the background runs.
        self._timer: asyncio.TimerHandle | None = None
        #: How long the background might have been paused at `_changed_s`, when it was last paused or resumed.
        self._allowed_s, self._changed_s = MAX_PAUSE_S, 0.0

    def begin(self) -> None:
        """Count a request that waits for its first token. Pause the background, as long as that is allowed."""
        self._waiting += 1
        if self._timer is None:
            self._pause()

    def end(self) -> None:
        """Count a request that waits no more. Let the background run if it was the last."""
        self._waiting -= 1
        if not self._waiting:
            self._resume()

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        allowed_s = min(MAX_PAUSE_S, self._allowed_s + now_s - self._changed_s)
        if allowed_s > MAX_PAUSE_S / 10 and self._pause_background():
            self._allowed_s, self._changed_s = allowed_s, now_s
            self._timer = loop.call_later(allowed_s, self._resume)

    def _resume(self) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        self._allowed_s -= now_s - self._changed_s
        self._changed_s = now_s
        self._resume_background()


#: Of this process: the children that it pauses are its own.
preemption = Preemption()
