"""What hangs and what is only slow, judged on real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from minitoolai.engines.hang_detector import HangDetector

LIMIT_S = 1.0
CRAWL = "import time\nwhile True: time.sleep(0.02)"
LOOP = "while True: pass"
BLOCK = "import threading; threading.Event().wait()"


def hangs_within(
    program: str, seconds: float, *, do: Callable[[subprocess.Popen[bytes]], object] | None = None
) -> bool:
    """Whether the process is found to hang, looked at ten times a second."""
    with subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{program}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if do is not None:
            do(process)
        try:
            detector = HangDetector(process.pid, LIMIT_S)
            detector.begin(began_s := time.monotonic())
            while time.monotonic() - began_s < seconds:
                time.sleep(0.1)
                if detector.is_hung(time.monotonic()):
                    assert time.monotonic() - began_s > LIMIT_S
                    return True
            return False
        finally:
            process.kill()


@pytest.mark.parametrize("program", [LOOP, BLOCK])
def test_an_endless_loop_and_a_blocked_process_hang(program: str) -> None:
    assert hangs_within(program, 60)


def test_a_stopped_process_hangs() -> None:
    assert hangs_within(LOOP, 60, do=lambda process: process.send_signal(signal.SIGSTOP))


def test_a_process_that_advances_a_little_does_not_hang() -> None:
    assert not hangs_within(CRAWL, 4 * LIMIT_S)


def test_each_task_has_its_own_time() -> None:
    with subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{LOOP}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            detector = HangDetector(process.pid, LIMIT_S)
            for _ in range(4):
                detector.begin(time.monotonic())
                time.sleep(LIMIT_S / 2)
                assert not detector.is_hung(time.monotonic())
        finally:
            process.kill()


def test_of_a_process_that_is_gone_it_says_nothing_wrong() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    detector = HangDetector(process.pid, LIMIT_S)
    detector.begin(5.0)
    assert not detector.is_hung(5.0 + LIMIT_S / 2)
