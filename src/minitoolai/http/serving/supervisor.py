"""Run `serve --workers N`: a supervisor process that serves nothing itself, and N children that share one socket.

The supervisor holds the socket, so a connection waiting to be accepted survives the death of a child. A child that dies
is restarted, with exponential backoff if it dies early. SIGHUP replaces the children one by one (rolling restart),
SIGTERM starts a graceful shutdown. The children die with their parent.
"""

from __future__ import annotations

import logging
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.errors import CatalogError
from minitoolai.core.parent import die_with_parent
from minitoolai.paths import catalog_path
from minitoolai.settings import Settings

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
#: Restart with a growing delay (exponential backoff) if a child dies within this time.
EARLY_EXIT_S = 5.0
MAX_RESTART_DELAY_S = 10.0
#: Time for the last commits, after the time that streams get. Then children are killed.
GRACE_S = 15.0


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    started_s: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    #: SIGTERM was sent. A second one would make the child stop without waiting for its streams.
    is_stopping: bool = False
    #: The child to stop as soon as this one is ready.
    replaces: _Child | None = None

    def terminate(self) -> None:
        self.is_stopping = True
        self.process.send_signal(signal.SIGTERM)


def attach_to_supervisor() -> None:
    """Set up a child: unblock its signals, ignore those of the terminal, and stop when the parent dies."""
    die_with_parent(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class Supervisor:
    """Start, watch and stop the children."""

    def __init__(self, settings: Settings, listening: socket.socket, arguments: Sequence[str]) -> None:
        self._settings = settings
        self._listening = listening
        self._command = [
            sys.executable,
            "-m",
            "minitoolai",
            *arguments,
            "--listening",
            str(listening.fileno()),
        ]
        self._children: list[_Child] = []
        self._to_replace: list[_Child] = []
        self._stopping_since_s: float | None = None
        self._restart_delay_s = 0.1
        self._restart_at_s: list[float] = []
        self._status = 0
        self._was_ready = False

    def run(self, ready: Callable[[], None]) -> int:
        """Run until stopped, or until the first children fail to start. Return the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for _ in range(self._settings.workers):
            self._start()
        while self._children or (self._restart_at_s and self._stopping_since_s is None):
            received = signal.sigtimedwait(_SIGNALS, 0.1)
            if received is not None:
                self._handle_signal(received.si_signo)
            self._reap()
            self._check_ready()
            if not self._was_ready and self._are_all_ready():
                self._was_ready = True
                ready()
            self._continue_replacement()
            self._restart_due()
            self._kill_after_deadline()
        return self._status

    def _start(self, replaces: _Child | None = None) -> None:
        process = subprocess.Popen(  # noqa: S603 - runs this program with its own arguments
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[self._listening.fileno()],
            # Ctrl-C must reach only the parent, which then signals the children once.
            start_new_session=True,
        )
        self._children.append(_Child(process, replaces=replaces))

    def _handle_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping_since_s is None:
                self._stopping_since_s = time.monotonic()
            # Forward the second signal too: it makes the children stop without waiting.
            self._signal_all(signal.SIGTERM)
        elif number == signal.SIGHUP and self._stopping_since_s is None and self._can_start():
            log.info("replacing %d processes one by one", len(self._children))
            self._to_replace = [child for child in self._children if child.replaces is None and not child.is_stopping]

    def _can_start(self) -> bool:
        """Return False, and log why, if the catalog has a mistake, so that no new child could start."""
        try:
            read_catalog(catalog_path(self._settings))
        except CatalogError as error:
            log.error("the processes are not replaced, the previous catalog stays in use: %s", error)
            return False
        return True

    def _signal_all(self, number: signal.Signals) -> None:
        for child in self._children:
            child.process.send_signal(number)

    def _reap(self) -> None:
        for child in [child for child in self._children if child.process.poll() is not None]:
            self._children.remove(child)
            if child.process.stdout is not None:
                child.process.stdout.close()
            successors = [other for other in self._children if other.replaces is child]
            for successor in successors:
                successor.replaces = None
            if self._stopping_since_s is None and not child.is_stopping:
                self._on_exit(child, has_successor=bool(successors))

    def _on_exit(self, child: _Child, *, has_successor: bool) -> None:
        """Handle a child that ended without being stopped."""
        status = child.process.returncode
        if not self._was_ready:
            # It printed its error, and another child would fail in the same way.
            self._stopping_since_s = time.monotonic()
            self._status = status if status > 0 else 1
            self._signal_all(signal.SIGTERM)
            return
        log.error("child process %d ended unexpectedly with status %d", child.process.pid, status)
        if child.replaces is not None:
            # The replacement cannot start, so keep the old children.
            self._to_replace = []
        elif not has_successor:
            died_early = time.monotonic() - child.started_s < EARLY_EXIT_S
            self._restart_delay_s = min(self._restart_delay_s * 2, MAX_RESTART_DELAY_S) if died_early else 0.1
            self._restart_at_s.append(time.monotonic() + self._restart_delay_s)

    def _check_ready(self) -> None:
        """Mark children as ready. A child prints one line once it accepts requests."""
        for child in self._children:
            output = child.process.stdout
            if not child.is_ready and output is not None and select.select([output], [], [], 0)[0]:
                child.is_ready = bool(output.readline())

    def _are_all_ready(self) -> bool:
        is_complete = len(self._children) == self._settings.workers and self._stopping_since_s is None
        return is_complete and all(child.is_ready for child in self._children)

    def _continue_replacement(self) -> None:
        for child in self._children:
            if child.replaces is not None and child.is_ready and self._stopping_since_s is None:
                child.replaces.terminate()
                child.replaces = None
        is_stable = all(child.is_ready and not child.is_stopping for child in self._children)
        if self._to_replace and is_stable and self._stopping_since_s is None:
            old = self._to_replace.pop(0)
            if old in self._children:
                self._start(replaces=old)

    def _restart_due(self) -> None:
        now_s = time.monotonic()
        due = [at_s for at_s in self._restart_at_s if at_s <= now_s]
        self._restart_at_s = [at_s for at_s in self._restart_at_s if at_s > now_s]
        if self._stopping_since_s is None:
            for _ in due:
                self._start()

    def _kill_after_deadline(self) -> None:
        if self._stopping_since_s is None:
            return
        if time.monotonic() - self._stopping_since_s > self._settings.drain_timeout_s + GRACE_S:
            self._signal_all(signal.SIGKILL)
