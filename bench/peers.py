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
PYTHON_PEERS = {"sglang-router": "sglang-router==0.3.2", "litellm": "litellm[proxy]==1.106.2"}
PORTKEY = "@portkey-ai/gateway@1.15.2"


def program(peer: str) -> Path | None:
    """Return the peer's executable (for Portkey its script), or None if it is not installed."""
    if peer == "nginx":
        found = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
        return Path(found) if found else None
    path = CACHE / peer / "bin" / peer
    if peer == "portkey":
        path = CACHE / peer / "node_modules/@portkey-ai/gateway/build/start-server.js"
    return path if path.exists() else None


def install_python(peer: str, requirement: str) -> None:
    venv.create(CACHE / peer, with_pip=True)
    subprocess.run([CACHE / peer / "bin/pip", "install", "-qq", requirement], check=True)


def install_portkey() -> None:
    folder = CACHE / "portkey"
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    subprocess.run(["npm", "install", "--prefix", folder, *flags, PORTKEY], check=True)


def install(peer: str) -> str:
    """Install the peer and return the result for the user."""
    if program(peer):
        return "already installed"
    try:
        if peer in PYTHON_PEERS:
            install_python(peer, PYTHON_PEERS[peer])
        elif peer == "portkey":
            install_portkey()
        else:
            return "missing: install it from the system's packages (Debian: nginx-light)"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"missing: {error}"
    return "installed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python -m bench.peers sglang-router litellm")
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
