"""Run `pip install` and show its progress: one line for each package, with a count.

    .venv/bin/python tools/install.py "the program" --no-deps --require-hashes -r requirements.txt

On a terminal the line is rewritten in place; elsewhere each package has a line of its own. Addresses of package
indexes are never shown, so that a log can be published. Uses only the standard library: nothing is installed yet.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

PACKAGE = re.compile(
    r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?(?:==([^\s;(]+))?"
)
PINNED = re.compile(r"^[A-Za-z0-9][\w.-]*(\[[^]]*\])?\s*==")
ADDRESS = re.compile(r"\w+://\S+")
#: What a server seldom or never imports: Python compiles such a file when it is first used. Saves 35 MB.
RARELY_USED = (
    r"/(tests?|stripe|fontTools|stdnum|setuptools|pyasn1_modules"
    r"|sqlalchemy/testing|sqlalchemy/dialects/(mssql|mysql|oracle))/"
)


def packages_in(files: Iterable[Path]) -> int:
    """Return how many packages these requirement files pin."""
    return sum(PINNED.match(line) is not None for file in files for line in file.read_text("utf-8").splitlines())


def progress(lines: Iterable[str], title: str, total: int) -> Iterator[str]:
    """Yield what to show for the lines that pip writes."""
    seen = 0
    for line in lines:
        found = PACKAGE.match(line.strip())
        if found:
            seen += 1
            count = f"{seen}/{total}" if total else f"{seen}"
            yield f"{title}: {count} {found[1]} {found[2] or ''}".rstrip()
        elif line.startswith("Installing collected packages"):
            what = f"{seen} packages" if seen else "the program"
            yield f"{title}: copying {what} into the environment (this takes a while)"


def requirement_files(arguments: list[str]) -> list[Path]:
    """Return the files named by `-r`."""
    return [Path(value) for option, value in pairwise(arguments) if option == "-r"]


def show(text: str, *, is_terminal: bool) -> None:
    """Write one line of progress: over the one before on a terminal, below it elsewhere."""
    sys.stdout.write(f"\r\x1b[2K{text[:100]}" if is_terminal else f"{text}\n")
    sys.stdout.flush()


class Heartbeat:
    """Show every few seconds that the installation goes on, because pip writes nothing while it copies files."""

    EVERY_S = 10.0

    def __init__(self, title: str, *, is_terminal: bool) -> None:
        self._text, self._is_terminal = f"{title}: starting", is_terminal
        self._started_s = time.monotonic()
        self._news, self._is_over = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heartbeat:
        show(self._text, is_terminal=self._is_terminal)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._news.set()
        self._thread.join()

    def show(self, text: str) -> None:
        """Show a line of progress."""
        self._text = text
        self._news.set()
        show(text, is_terminal=self._is_terminal)

    def _run(self) -> None:
        while not self._is_over:
            if self._news.wait(self.EVERY_S):
                self._news.clear()
            else:
                elapsed_s = time.monotonic() - self._started_s
                show(f"{self._text} … {elapsed_s:.0f} s", is_terminal=self._is_terminal)


def compile_packages() -> None:
    """Compile the installed packages on all cores; pip would use one. A file that Python cannot compile is no fault."""
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-x", RARELY_USED, sysconfig.get_path("purelib")]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main(title: str, *arguments: str) -> int:
    """Install and return pip's exit status. If pip fails, its output is shown."""
    started_s, is_terminal, output = time.monotonic(), sys.stdout.isatty(), list[str]()
    command = [sys.executable, "-u", "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
               "--progress-bar", "off", "--no-compile", *arguments]  # fmt: skip
    with (
        Heartbeat(title, is_terminal=is_terminal) as heartbeat,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        assert pip.stdout is not None

        def lines() -> Iterator[str]:
            for line in pip.stdout or ():
                output.append(line)
                yield line

        for text in progress(lines(), title, packages_in(requirement_files(list(arguments)))):
            heartbeat.show(text)
        pip.wait()
        if not pip.returncode and requirement_files(list(arguments)):
            heartbeat.show(f"{title}: compiling")
            compile_packages()
    if pip.returncode:
        sys.stdout.write("\n" if is_terminal else "")
        sys.stderr.write(ADDRESS.sub("<package index>", "".join(output[-40:])))
        sys.stderr.write(f"{title}: pip failed with status {pip.returncode}\n")
    else:
        show(f"{title}: done in {time.monotonic() - started_s:.0f} s", is_terminal=is_terminal)
        sys.stdout.write("\n" if is_terminal else "")
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
