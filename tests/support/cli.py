"""The real `minitoolai` command, as a person runs it: a process of its own, a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


class Cli:
    """Runs commands on one data folder."""

    def __init__(self, folder: Path, catalog: str = CATALOG) -> None:
        self.data_dir = folder / "data"
        self.catalog = folder / "catalog.toml"
        self.catalog.write_text(catalog)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MINITOOLAI_")}
        self.env = {**clean, "MINITOOLAI_DATA_DIR": str(self.data_dir), "MINITOOLAI_CATALOG": str(self.catalog)}

    @property
    def database(self) -> Path:
        return self.data_dir / "minitoolai.db"

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> Said:
        """Run to the end; the exit status is a result like any other."""
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

    def ok(self, *arguments: str, **options: str) -> str:
        """Run what must work and print nothing on standard error; its standard output."""
        said = self(*arguments, **options)
        assert (said.status, said.err) == (0, ""), said
        return said.out
