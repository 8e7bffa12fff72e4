"""Install the peers that `make bench` compares with, each into a folder of its own under bench/.cache.

A peer that cannot be installed is reported and left out of the table. nginx, HAProxy and Caddy come from the system's
packages.
"""

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(__file__).parent / ".cache"
#: Requirements and lock files with the hash of every package. `make pin` writes them.
PINS = Path(__file__).parent / "pins"
PYTHON_PEERS = ("smg", "tensorzero", "litellm")
SYSTEM_PEERS = ("nginx", "haproxy", "caddy")
#: TensorZero has no program of its own: bench/embedded_tensorzero.py runs in its environment.
_PROGRAMS = {"tensorzero": "python"}


def program(peer: str) -> Path | None:
    """Return the peer's executable, or None if it is not installed."""
    if peer in SYSTEM_PEERS:
        found = shutil.which(peer, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
        return Path(found) if found else None
    path = CACHE / peer / "bin" / _PROGRAMS.get(peer, peer)
    return path if path.exists() else None


def package_version(peer: str, package: str) -> str:
    """Return the version of the package in the peer's environment."""
    found = (CACHE / peer).glob(f"lib/python*/site-packages/{package}-*.dist-info")
    return next((path.name.removesuffix(".dist-info").removeprefix(f"{package}-") for path in found), "")


def install_python(peer: str) -> None:
    venv.create(CACHE / peer, with_pip=True)
    install = [CACHE / peer / "bin/pip", "install", "-qq", "--require-hashes", "-r", PINS / f"{peer}.txt"]
    subprocess.run(install, check=True)


def install(peer: str) -> str:
    """Install the peer and return the result for the user."""
    if program(peer):
        return "already installed"
    if peer in SYSTEM_PEERS:
        return f"missing: install it from the system's packages (Debian: apt-get install {peer})"
    try:
        install_python(peer)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"missing: {error}"
    return "installed"


def main() -> None:
    known = [*SYSTEM_PEERS, *PYTHON_PEERS]
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python -m bench.peers smg litellm")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"some of {', '.join(known)}; all by default")
    wanted = parser.parse_args().peers or known
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"unknown peer {', '.join(unknown)}; known are {', '.join(known)}")
    for peer in wanted:
        print(f"{peer:14} {install(peer)}", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
