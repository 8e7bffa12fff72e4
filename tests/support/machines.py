"""Machines for tests: network namespaces joined by one switch, and what can happen to them.

Each test run has a switch of its own, so addresses never clash. A machine can be cut off without any signal to the
others, as by a pulled cable. Needs root and `ip`; without them a test is skipped with the reason.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import requests

from tests.support.cluster import Cluster
from tests.support.programs import network_namespaces, program

T = TypeVar("T")
NETWORK = "10.77.0"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


def _enter(namespace: IO[bytes]) -> None:
    """Move this thread to a network namespace."""
    if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace.name}")


class Machine:
    """One network namespace with one address."""

    def __init__(self, switch: str, prefix: str, name: str, number: int) -> None:
        self.name, self.address = name, f"{NETWORK}.{number}"
        self.namespace, self._switch, self._port = f"{prefix}-{name}", switch, f"v{number}"
        _ip("netns", "add", self.namespace)
        _ip("-n", switch, "link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        self.heal()
        _ip("-n", switch, "link", "set", self._port, "up")
        _ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            _ip("-n", self.namespace, "link", "set", link, "up")

    def enter(self) -> None:
        """Move this thread to the machine, for good. Processes and threads that it starts are there, too."""
        with open(f"/run/netns/{self.namespace}", "rb") as namespace:
            _enter(namespace)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let this thread use the network of the machine for the block. Sockets keep it afterwards."""
        # Of this thread: that of the process would be the machine itself, once the main thread is there.
        with open("/proc/thread-self/ns/net", "rb") as before:
            self.enter()
            try:
                yield
            finally:
                _enter(before)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the network of the machine."""
        with self.here():
            return function()

    def popen(self, command: Sequence[str], *, env: Mapping[str, str] | None = None, **more: Any) -> Any:
        """Start a program on the machine."""
        with self.here():
            return subprocess.Popen(command, env=env, **more)

    def cut(self) -> None:
        """Pull the cable: nothing arrives or leaves, and nothing is reported."""
        _ip("-n", self._switch, "link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """Plug the cable in again."""
        _ip("-n", self._switch, "link", "set", self._port, "master", "br0")

    def delay(self, ms: float) -> None:
        """Let everything that the machine sends arrive so much later."""
        _ip(
            "netns",
            "exec",
            self.namespace,
            "tc",
            "qdisc",
            "replace",
            "dev",
            "eth0",
            "root",
            "netem",
            "delay",
            f"{ms}ms",
        )

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)


class Network:
    """Machines joined by one switch."""

    def __init__(self) -> None:
        network_namespaces()
        self._prefix = f"mt{os.getpid()}-{next(_numbers)}"
        self._switch = f"{self._prefix}-sw"
        self.machines: dict[str, Machine] = {}
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")

    def machine(self, name: str) -> Machine:
        """Add a machine."""
        made = Machine(self._switch, self._prefix, name, 10 + len(self.machines))
        self.machines[name] = made
        return made

    def remove(self) -> None:
        for machine in self.machines.values():
            machine.remove()
        subprocess.run(["ip", "netns", "del", self._switch], check=False, capture_output=True)


@contextmanager
def network(*names: str) -> Iterator[Network]:
    """A switch with these machines; skips the test where there can be none."""
    made = Network()
    try:
        for name in names:
            made.machine(name)
        yield made
    finally:
        made.remove()


@contextmanager
def postgres_on(machine: Machine, *, max_connections: int = 200, **settings: str) -> Iterator[Cluster]:
    """A PostgreSQL server on a machine, which the other machines may use."""
    made = Cluster(machine=machine)
    with (Path(made.data) / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all,replication all {NETWORK}.0/24 trust\n")
        rules.write("host replication all all trust\n")
    made.settings |= {"max_connections": str(max_connections), **settings}
    try:
        yield made.start()
    finally:
        made.remove()


def haproxy_command(machines: Network, folder: Path) -> list[str]:
    """Return the command of the shipped file for `api1` and `api2`, on port 8080 of `lb`, without TLS."""
    text = (Path(__file__).parents[2] / "ops" / "haproxy" / "haproxy.cfg").read_text()
    text = re.sub(r"bind :443 ssl.*", f"bind {machines.machines['lb'].address}:8080", text)
    # As many as a test may open files for.
    text = text.replace("maxconn 20000", "maxconn 2000")
    for address, name in (("10.0.0.21", "api1"), ("10.0.0.22", "api2")):
        text = text.replace(address, machines.machines[name].address)
    path = folder / "haproxy.cfg"
    path.write_text(text)
    return [program("haproxy"), "-db", "-f", str(path)]


def is_ready(client: Machine, url: str) -> bool:
    """Ask a server from a machine whether it is ready."""
    try:
        return client.call(lambda: requests.get(f"{url}/readyz", timeout=3)).status_code == 200
    except requests.RequestException:
        return False
