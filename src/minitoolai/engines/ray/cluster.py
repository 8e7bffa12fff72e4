"""The connection of this process to a Ray cluster, and facts about the cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

import ray
from ray.exceptions import RayError

from minitoolai.core.errors import SettingsError
from minitoolai.engines.child_process import child_environment

#: The release that this program was tried with; all machines of a cluster must run the same one.
VERSION = "2.60"
NO_AUTH_REMEDY = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH for every ray start and for this program: "
    "without a token, whoever reaches the ports of a Ray cluster can run code on it"
)
_PROBE_TIMEOUT_S = 60.0


def connect(address: str) -> None:
    """Connect this process to the cluster at HOST:PORT. Raises SettingsError with the remedy."""
    if not ray.__version__.startswith(VERSION + "."):
        raise SettingsError(f"ray {ray.__version__} is installed; this program needs ray {VERSION}: see scale.md")
    if not _has_token():
        raise SettingsError(f"--ray {address}: {NO_AUTH_REMEDY}")
    try:
        ray.init(address=address, namespace="minitoolai", log_to_driver=False, configure_logging=False)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise SettingsError(
            f"--ray {address}: no Ray cluster could be joined there ({type(error).__name__}: {reason}); "
            "start one with: ray start --head, and give this program the same token"
        ) from error


def disconnect() -> None:
    """Leave the cluster, which ends every actor of this process."""
    ray.shutdown()


def is_alive(node_id: str) -> bool:
    """Return True if the cluster counts this machine as alive."""
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


class ClusterFacts(NamedTuple):
    """Machines of a cluster that are alive, with their processors and graphics processors."""

    nodes: int
    cpus: int
    gpus: int

    def describe(self) -> str:
        """Return the facts in words."""
        return f"{self.nodes} machines, {self.cpus} CPUs, {self.gpus} GPUs"


def facts() -> ClusterFacts:
    """Return the facts of the cluster that this process has joined."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (int(sum(each.get(name, 0) for each in resources)) for name in ("CPU", "GPU"))
    return ClusterFacts(len(resources), cpus, gpus)


def accepts_anyone(address: str) -> bool:
    """Return True if the cluster can be joined with a wrong token."""
    script = f"import ray; ray.init({address!r}, log_to_driver=False, configure_logging=False)"
    environment = {**child_environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    environment.pop("RAY_AUTH_TOKEN_PATH", None)
    try:
        probe = subprocess.run(  # noqa: S603 - this very Python
            [sys.executable, "-c", script], env=environment, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def _has_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE") == "token"
