"""Programs that some tests need beside Python. Where one is missing the test says so; CI installs them all."""

from __future__ import annotations

import shutil

import pytest


def program(name: str) -> str:
    """The program's path. Without it the test cannot run here: skipped, with the reason; in CI that is a failure."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed on this machine; .ci/run installs it")
    return path
