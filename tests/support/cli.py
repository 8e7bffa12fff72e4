"""Run the real `minitoolai` command like a user: in a separate process, with a folder of its own.

`within` runs it in the process of the tests instead, which is much faster.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from minitoolai.cli.main import main
from tests.support.books import new_file

PROGRAM = str(Path(sys.executable).with_name("minitoolai"))
CATALOG = """\
[engines.fake]
kind = "fake"
model = "fake-1"

[engines.up]
kind = "upstream"
base_url = "https://127.0.0.1:9/v1"
needs_key = true

[chat."fake-chat"]
input = "1.00"
output = "2.50"
context = 4096
max_output = 1024
engines = ["up", "fake"]
"""


@dataclass(frozen=True)
class Said:
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


class Cli:
    """Run commands on one data folder."""

    def __init__(self, folder: Path, catalog: str = CATALOG) -> None:
        self.data_dir = folder / "data"
        self.catalog = folder / "catalog.toml"
        self.catalog.write_text(catalog)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MINITOOLAI_")}
        self.env = {**clean, "MINITOOLAI_DATA_DIR": str(self.data_dir), "MINITOOLAI_CATALOG": str(self.catalog)}

    @property
    def database(self) -> Path:
        return self.data_dir / "minitoolai.db"

    def with_books(self) -> Cli:
        """Prepare an empty database, which a first command would need half a second to create."""
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        new_file(self.data_dir)
        return self

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Said:
        """Run to the end; any exit status is a valid result."""
        done = subprocess.run(
            [PROGRAM, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={**self.env, **env},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def within(self, *arguments: str, stdin: str = "", **env: str) -> Said:
        """Run the command in this process, in a fiftieth of the time."""
        return run_within(arguments, {**self.env, **env}, stdin)

    def ok(self, *arguments: str, **options: str) -> str:
        """Run a command that must succeed without output on stderr. Return its stdout."""
        return _checked(self(*arguments, **options))

    def ok_within(self, *arguments: str, **options: str) -> str:
        """Do what `ok` does, in this process."""
        return _checked(self.within(*arguments, **options))


def _checked(said: Said) -> str:
    assert (said.status, said.err) == (0, ""), said
    return said.out


def run_within(arguments: Sequence[str], env: Mapping[str, str], stdin: str = "") -> Said:
    """Run a command in this process, with the environment variables of another one."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with _environment(env, stdin), redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
    return Said(status, out.getvalue(), err.getvalue())


@contextmanager
def _environment(env: Mapping[str, str], stdin: str) -> Iterator[None]:
    """Set the environment variables and stdin of a separate process, for the block."""
    before, keyboard, name = dict(os.environ), sys.stdin, sys.argv[0]
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.argv[0] = io.StringIO(stdin), PROGRAM
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.stdin, sys.argv[0] = keyboard, name
