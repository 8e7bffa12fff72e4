"""A child ends with its parent, and ignores the signals of the terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.support.waiting import eventually

PARENT = """
import os, signal, sys
from minitoolai.core.parent import die_with_parent
reader, writer = os.pipe()
child = os.fork()
if not child:
    die_with_parent()
    os.write(writer, b"x")
    signal.pause()
os.read(reader, 1)
print(child, flush=True)
sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_ignores_the_terminal_and_ends_with_its_parent() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(child, number)
        assert is_running(child)
        parent.kill()
        parent.wait()
        eventually(lambda: not is_running(child), within_s=10)
