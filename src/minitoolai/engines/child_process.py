"""What every child process is given, and does first: leave the terminal's signals to its parent, and die with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
#: Threads of OpenMP that wait for each other (llama.cpp, PyTorch) go to sleep soon. As shipped they loop for several
#: milliseconds, and on a busy machine keep the thread they wait for from its processor. To sleep at once would cost
#: half of the speed on an idle machine; these rounds, some 25 µs, cost hardly any. Figures: docs/performance.md.
_OPENMP = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}


def child_environment() -> dict[str, str]:
    """Return the environment for a child process: ours, and how its threads wait unless the operator has set that.

    Handed over at the start, because OpenMP reads it when the library is loaded.
    """
    is_set = _OPENMP.keys() & os.environ.keys()
    return {**os.environ} if is_set else {**os.environ, **_OPENMP}


def belong_to_parent() -> None:
    """Ignore the signals of the terminal; die when the parent does, however it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)
