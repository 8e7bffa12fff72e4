"""Find programs that some tests need beside Python. A test says which one is missing; `.ci/run` installs them all."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Return the program's path, or skip the test with the reason. In CI a skipped test is a failure."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed on this machine; .ci/run installs it")
    return path


#: Folder of the Node programs and their packages.
NODE = Path(__file__).parent.parent / "node"


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let only one test process at a time install something into `folder`; the others wait and then find it there."""
    name = sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"minitoolai-tests-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install_node() -> None:
    """Install the packages of tests/node/package-lock.json, which has their hashes, unless they are there."""
    wanted, stamp = (NODE / "package-lock.json").read_text(), NODE / "node_modules" / ".installed"
    with one_at_a_time(NODE):
        if not stamp.exists() or stamp.read_text() != wanted:
            subprocess.run([program("npm"), "ci", "--silent"], cwd=NODE, check=True, timeout=300)
            stamp.write_text(wanted)


def packages_of_the_gpu_engine() -> None:
    """Skip the test, with the reason, where torch and the packages that come with it are not installed."""
    missing = [name for name in ("torch", "diffusers", "transformers", "safetensors") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed on this machine; make dev-gpu installs them")


def ray() -> None:
    """Skip the test, with the reason, where the extra `minitoolai[ray]` is not installed. `make dev` installs it."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed; make dev installs it")


def network_namespaces() -> None:
    """Skip the test, with the reason, where this process may not make network namespaces."""
    if os.getuid() != 0:
        pytest.skip("network namespaces need root; .ci/run is run as root")
    name = f"mt-probe-{os.getpid()}"
    made = subprocess.run([program("ip"), "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
    subprocess.run(["ip", "netns", "del", name], check=True)
