"""Log SIGHUP in a process that serves or draws by itself, and go on.

The signal comes from `systemctl reload`, and from a terminal that is closed. Neither may break off answers in flight.
"""

from __future__ import annotations

import asyncio
import logging
import signal

log = logging.getLogger(__name__)

_NOTHING_TO_RELOAD = (
    "SIGHUP ignored: this process has nothing to reload; restart it to apply new settings or code "
    "(with --workers, send SIGHUP to the parent)"
)


def ignore_hangups() -> None:
    """Ignore SIGHUP from here on; called first, for while the process starts."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def report_hangups(loop: asyncio.AbstractEventLoop) -> None:
    """Answer every SIGHUP with a log line that says what to do instead."""
    loop.add_signal_handler(signal.SIGHUP, log.warning, _NOTHING_TO_RELOAD)
