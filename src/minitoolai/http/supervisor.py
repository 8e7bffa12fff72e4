"""`serve --workers N`: a parent that serves nothing itself, and N processes that take requests from one socket.

The parent holds the socket, so a connection that waits to be accepted outlives any of them. A child that dies is
started again; SIGHUP replaces them one after the other; SIGTERM lets all of them finish. They die with the parent.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minitoolai.settings import Settings

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1
#: A child that dies younger than this is started again more and more slowly.
YOUNG_S = 5.0
LONGEST_PAUSE_S = 10.0
#: Beyond the time that streams get, for the last commits; then a child is killed.
GRACE_S = 15.0


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    started_s: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    #: Told to stop, once: a second time would mean not to wait for its streams.
    is_leaving: bool = False
    #: The child whose place this one takes as soon as it is ready.
    replaces: _Child | None = None

    def let_go(self) -> None:
        self.is_leaving = True
        self.process.send_signal(signal.SIGTERM)


def belong_to_supervisor() -> None:
    """What a child does first: take signals again, ignore those of the terminal, stop when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:
            sys.exit(1)


class Supervisor:
    """Starts, watches and stops the children."""

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
        self._pause_s = 0.1
        self._start_again_s: list[float] = []
        self._status = 0
        self._was_ready = False

    def run(self, ready: Callable[[], None]) -> int:
        """Until told to stop, or the first children could not start; the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for _ in range(self._settings.workers):
            self._start()
        while self._children or (self._start_again_s and self._stopping_since_s is None):
            told = signal.sigtimedwait(_SIGNALS, 0.1)
            if told is not None:
                self._obey(told.si_signo)
            self._reap()
            self._look_for_ready()
            if not self._was_ready and self._are_all_ready():
                self._was_ready = True
                ready()
            self._go_on_replacing()
            self._start_those_due()
            self._lose_patience()
        return self._status

    def _start(self, replaces: _Child | None = None) -> None:
        process = subprocess.Popen(  # noqa: S603 - ourselves, with our own arguments
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[self._listening.fileno()],
            # Ctrl-C is for the parent, which tells the children once.
            start_new_session=True,
        )
        self._children.append(_Child(process, replaces=replaces))

    def _obey(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping_since_s is None:
                self._stopping_since_s = time.monotonic()
            # Also the second time: that tells the children not to wait.
            self._tell_all(signal.SIGTERM)
        elif number == signal.SIGHUP and self._stopping_since_s is None:
            log.info("replacing %d processes, one after the other", len(self._children))
            self._to_replace = [child for child in self._children if child.replaces is None and not child.is_leaving]

    def _tell_all(self, number: signal.Signals) -> None:
        for child in self._children:
            child.process.send_signal(number)

    def _reap(self) -> None:
        for child in [child for child in self._children if child.process.poll() is not None]:
            self._children.remove(child)
            if child.process.stdout is not None:
                child.process.stdout.close()
            heirs = [other for other in self._children if other.replaces is child]
            for heir in heirs:
                heir.replaces = None
            if self._stopping_since_s is None and not child.is_leaving:
                self._lost(child, has_heir=bool(heirs))

    def _lost(self, child: _Child, *, has_heir: bool) -> None:
        """It ended, and nobody had told it to."""
        status = child.process.returncode
        if not self._was_ready:
            # It has said why on standard error; another would say the same.
            self._stopping_since_s = time.monotonic()
            self._status = status if status > 0 else 1
            self._tell_all(signal.SIGTERM)
            return
        log.error("process %d ended with status %d", child.process.pid, status)
        if child.replaces is not None:
            # What would take its place cannot start: those that are there go on.
            self._to_replace = []
        elif not has_heir:
            is_young = time.monotonic() - child.started_s < YOUNG_S
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S) if is_young else 0.1
            self._start_again_s.append(time.monotonic() + self._pause_s)

    def _look_for_ready(self) -> None:
        """A child says one line, once it takes requests."""
        for child in self._children:
            said = child.process.stdout
            if not child.is_ready and said is not None and select.select([said], [], [], 0)[0]:
                child.is_ready = bool(said.readline())

    def _are_all_ready(self) -> bool:
        is_complete = len(self._children) == self._settings.workers and self._stopping_since_s is None
        return is_complete and all(child.is_ready for child in self._children)

    def _go_on_replacing(self) -> None:
        for child in self._children:
            if child.replaces is not None and child.is_ready and self._stopping_since_s is None:
                child.replaces.let_go()
                child.replaces = None
        is_calm = all(child.is_ready and not child.is_leaving for child in self._children)
        if self._to_replace and is_calm and self._stopping_since_s is None:
            old = self._to_replace.pop(0)
            if old in self._children:
                self._start(replaces=old)

    def _start_those_due(self) -> None:
        now_s = time.monotonic()
        due = [at_s for at_s in self._start_again_s if at_s <= now_s]
        self._start_again_s = [at_s for at_s in self._start_again_s if at_s > now_s]
        if self._stopping_since_s is None:
            for _ in due:
                self._start()

    def _lose_patience(self) -> None:
        if self._stopping_since_s is None:
            return
        if time.monotonic() - self._stopping_since_s > self._settings.drain_timeout_s + GRACE_S:
            self._tell_all(signal.SIGKILL)
