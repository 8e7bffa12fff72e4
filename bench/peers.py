"""Install the peers that `make bench` compares with, each into a folder of its own under bench/.cache.

A peer that cannot be installed is reported and left out of the table.
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
PYTHON_PEERS = ("smg", "litellm")


def program(peer: str) -> Path | None:
    """Return the peer's executable (for Portkey its script), or None if it is not installed."""
    if peer == "nginx":
        found = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
        return Path(found) if found else None
    path = CACHE / peer / "bin" / peer
    if peer == "portkey":
        path = CACHE / peer / "node_modules/@portkey-ai/gateway/build/start-server.js"
    return path if path.exists() else None


def install_python(peer: str) -> None:
    venv.create(CACHE / peer, with_pip=True)
    install = [CACHE / peer / "bin/pip", "install", "-qq", "--require-hashes", "-r", PINS / f"{peer}.txt"]
    subprocess.run(install, check=True)


def install_portkey() -> None:
    folder = CACHE / "portkey"
    shutil.copytree(PINS / "portkey", folder, dirs_exist_ok=True)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)


def install(peer: str) -> str:
    """Install the peer and return the result for the user."""
    if program(peer):
        return "already installed"
    try:
        if peer in PYTHON_PEERS:
            install_python(peer)
        elif peer == "portkey":
            install_portkey()
        else:
            return "missing: install it from the system's packages (Debian: nginx-light)"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"missing: {error}"
    return "installed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python -m bench.peers smg litellm")
    known = ["nginx", *PYTHON_PEERS, "portkey"]
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"some of {', '.join(known)}; all by default")
    wanted = parser.parse_args().peers or known
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"unknown peer {', '.join(unknown)}; known are {', '.join(known)}")
    for peer in wanted:
        print(f"{peer:14} {install(peer)}", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
