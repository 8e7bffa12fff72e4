"""Programs that some tests need beside Python. Where one is missing the test says so; CI installs them all."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def program(name: str) -> str:
    """The program's path. Without it the test cannot run here: skipped, with the reason; in CI that is a failure."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed on this machine; .ci/run installs it")
    return path


#: Where the programs for Node lie.
NODE = Path(__file__).parent.parent / "node"


def install_node() -> None:
    """Everything that tests/node/package.json asks for, in that folder; nothing if it is there."""
    wanted = ("openai", "ai", "@ai-sdk/openai-compatible")
    if not all((NODE / "node_modules" / name).is_dir() for name in wanted):
        subprocess.run([program("npm"), "install", "--silent", "--no-package-lock"], cwd=NODE, check=True, timeout=300)
