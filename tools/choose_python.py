"""Choose the Python for `.venv`, and print its path: `python3` on PATH, unless another of its version is much faster.

    python3 tools/choose_python.py

A Python that was compiled without profile-guided optimization, as pyenv does unless told, needs 1.4 times the time for
the same work (decision 0045). So each Python is given the same work. What was found is written to stderr, the path of
the chosen one to stdout. Uses only the standard library and runs on Python 3.8, which it refuses.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LEAST = (3, 11)
NAMES = ("python3", "python3.11", "python3.12", "python3.13", "python3.14")
FOLDERS = ("/usr/bin", "/usr/local/bin")
#: Another Python is taken only if `python3` on PATH needs this many times its time.
WORTH_IT = 1.1
#: Each Python is measured this often, in turn, and its fastest time counts: the machine may be busy now and then.
ROUNDS = 5
PATIENCE_S = 20.0
#: Prints the version, the path and the fastest of several times of a fixed piece of work; fails without these modules.
WORK = """
import ensurepip, json, sqlite3, ssl, sys, time, venv
def work():
    rows, total = {}, 0
    for number in range(120000):
        name = "model %d" % (number % 97)
        rows[name] = rows.get(name, 0) + number * 600
        total += len(name) if rows[name] % 3 else number & 15
    return sorted(rows.values())[-1] + total
times = []
for _ in range(5):
    began_s = time.process_time()
    work()
    times.append(time.process_time() - began_s)
print(json.dumps([list(sys.version_info[:3]), sys.executable, min(times) * 1000]))
"""


class Python(NamedTuple):
    """A Python that can be used: how it was found, its path and version, and the milliseconds for the work."""

    name: str
    path: str
    version: tuple[int, int, int]
    work_ms: float

    @property
    def text(self) -> str:
        return f"{self.path} ({'.'.join(map(str, self.version))})"


def candidates(names: Iterable[str] = NAMES, folders: Iterable[str] = FOLDERS) -> list[str]:
    """Return the commands to try: these names on PATH first, then in these folders."""
    names = list(names)
    return names + [str(Path(folder) / name) for folder in folders for name in names]


def measured(name: str) -> tuple[Python | None, str]:
    """Run the work in this Python. Return the Python, or None and why it cannot be used; "" if there is none."""
    path = shutil.which(name)
    if path is None:
        return None, ""
    # -I: no variable and no file of this folder changes what is imported.
    command = [path, "-I", "-c", WORK]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"does not run: {error}"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
    version, executable, work_ms = json.loads(done.stdout)
    found = Python(name, executable or path, tuple(version), work_ms)
    if found.version[:2] < LEAST:
        return None, f"{'.'.join(map(str, version))}: older than {'.'.join(map(str, LEAST))}"
    return found, ""


def survey(names: Iterable[str]) -> tuple[list[Python], dict[str, str]]:
    """Return the Pythons that can be used, each once and in the order of their names, and why others cannot."""
    found: dict[str, Python] = {}
    unfit: dict[str, str] = {}
    for name in names:
        python, why = measured(name)
        if python is not None:
            found.setdefault(str(Path(python.path).resolve()), python)
        elif why:
            unfit[name] = why
    return list(found.values()), unfit


def measured_again(found: list[Python]) -> list[Python]:
    """Return them with the fastest time of ROUNDS, in which they take turns."""
    best = {python: python.work_ms for python in found}
    for _ in range(ROUNDS - 1):
        for python in found:
            again, _ = measured(python.path)
            if again is not None:
                best[python] = min(best[python], again.work_ms)
    return [python._replace(work_ms=work_ms) for python, work_ms in best.items()]


def of_one_version(found: list[Python]) -> list[Python]:
    """Return those that may be taken, the preferred one first: `python3` on PATH, and others of its minor version.

    An environment of another version would need other packages than those that the operator has prepared. If `python3`
    cannot be used, the oldest version is preferred.
    """
    first = found[0] if found[0].name == NAMES[0] else min(found, key=lambda python: python.version[:2])
    others = [python for python in found if python.version[:2] == first.version[:2] and python != first]
    return [first, *others]


def choose(same: list[Python]) -> tuple[Python, str]:
    """Return the Python to take, of one version and the preferred one first, and why."""
    first, fastest = same[0], min(same, key=lambda python: python.work_ms)
    if first.work_ms >= WORTH_IT * fastest.work_ms:
        return fastest, f"{first.work_ms / fastest.work_ms:.2f} times as fast as {first.path}"
    if first.name != NAMES[0]:
        return first, "python3 on PATH cannot be used"
    others = "no other of its version was found" if len(same) == 1 else "no other of its version is 10 % faster"
    return first, f"python3 on PATH; {others}"


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(names: Iterable[str]) -> int:
    """Print the path of the chosen Python. Return 1 if none can be used."""
    found, unfit = survey(names)
    same = measured_again(of_one_version(found)) if found else []
    for python in same:
        say(f"found {python.text}: {python.work_ms:.1f} ms for the same work")
    for name, why in unfit.items():
        if name == NAMES[0] or not found:
            say(f"{name}: {why}")
    if not found:
        say("MiniToolAI needs Python 3.11 or newer with venv, ensurepip, sqlite3 and ssl (Debian: apt install"
            " python3-venv). Choose one like this: make PYTHON=python3.12 install")  # fmt: skip
        return 1
    taken, why = choose(same)
    say(f"taking {taken.text}: {why}. make PYTHON=... chooses another")
    sys.stdout.write(f"{taken.path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or candidates()))
