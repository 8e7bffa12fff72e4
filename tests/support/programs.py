"""Programs that some tests need beside Python. Where one is missing the test says so; CI installs them all."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
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
    wanted = ("openai", "ai", "@ai-sdk/openai-compatible", "axe-core")
    if not all((NODE / "node_modules" / name).is_dir() for name in wanted):
        subprocess.run([program("npm"), "install", "--silent", "--no-package-lock"], cwd=NODE, check=True, timeout=300)


def packages_of_the_gpu_engine() -> None:
    """torch and what comes with it. Without them the test cannot run here: skipped, with the reason, as above."""
    missing = [name for name in ("torch", "diffusers", "transformers", "safetensors") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed on this machine; make dev-gpu installs them")
