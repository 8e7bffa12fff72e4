"""Run `pip install` and show its progress: one line for each package, with a count.

    .venv/bin/python tools/install.py "the program" --no-deps --require-hashes -r requirements.txt

On a terminal the line is rewritten in place; elsewhere each package has a line of its own. Addresses of package
indexes are never shown, so that a log can be published. Uses only the standard library: nothing is installed yet.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

PACKAGE = re.compile(
    r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?(?:==([^\s;(]+))?"
)
PINNED = re.compile(r"^[A-Za-z0-9][\w.-]*(\[[^]]*\])?\s*==")
ADDRESS = re.compile(r"\w+://\S+")


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
            yield f"{title}: copying {seen} packages into the environment (this takes a while)"


def requirement_files(arguments: list[str]) -> list[Path]:
    """Return the files named by `-r`."""
    return [Path(value) for option, value in pairwise(arguments) if option == "-r"]


def show(text: str, *, is_terminal: bool) -> None:
    """Write one line of progress: over the one before on a terminal, below it elsewhere."""
    sys.stdout.write(f"\r\x1b[2K{text[:100]}" if is_terminal else f"{text}\n")
    sys.stdout.flush()


def main(title: str, *arguments: str) -> int:
    """Install and return pip's exit status. If pip fails, its output is shown."""
    started_s, is_terminal, output = time.monotonic(), sys.stdout.isatty(), list[str]()
    command = [sys.executable, "-u", "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
               "--progress-bar", "off", *arguments]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None

        def lines() -> Iterator[str]:
            for line in pip.stdout or ():
                output.append(line)
                yield line

        for text in progress(lines(), title, packages_in(requirement_files(list(arguments)))):
            show(text, is_terminal=is_terminal)
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
