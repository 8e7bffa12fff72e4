"""The connection of this process to a Ray cluster, and facts about the cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
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
#: Ray tries to join 20 times, a second apart, also with a token that is refused. The cluster has just been joined.
_PROBE_TRIES = 3
#: The resource by which Ray marks the node of the head.
_HEAD = "node:__internal_head__"


def connect(address: str) -> None:
    """Connect this process to the cluster at HOST:PORT. Raises SettingsError with the remedy."""
    if not ray.__version__.startswith(VERSION + "."):
        raise SettingsError(f"ray {ray.__version__} is installed; this program needs ray {VERSION}: see scale.md")
    if not _has_token():
        raise SettingsError(f"--ray {address}: {NO_AUTH_REMEDY}")
    try:
        _join(address)
        if (folder := _other_local_node()) is not None:
            ray.shutdown()
            _join(address, _temp_dir=folder)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise SettingsError(
            f"--ray {address}: no Ray cluster could be joined there ({type(error).__name__}: {reason}); "
            "start one with: ray start --head, and give this program the same token"
        ) from error


def _join(address: str, **options: str) -> None:
    ray.init(address=address, namespace="minitoolai", log_to_driver=False, configure_logging=False, **options)


def _other_local_node() -> str | None:
    """Return the folder of a node on this machine that is not the head, if this process has joined through the head.

    Ray prefers the head. But what joined through a node ends with it, and a head should be free to restart.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    own = next((node for node in nodes if node["NodeID"] == node_id()), None)
    if own is None or _HEAD not in own["Resources"]:
        return None
    here = [one for one in nodes if one["NodeManagerHostname"] == own["NodeManagerHostname"]]
    folders = {str(Path(one["RayletSocketName"]).parents[2]): one["Resources"].get("CPU", 0) for one in here}
    folders.pop(str(Path(own["RayletSocketName"]).parents[2]), None)
    # The one that draws least is the least likely to be lost.
    return min(folders, key=lambda folder: folders[folder], default=None)


def node_id() -> str:
    """Return the node through which this process has joined the cluster."""
    found: str = ray.get_runtime_context().get_node_id()
    return found


def disconnect() -> None:
    """Leave the cluster, which ends every actor of this process."""
    ray.shutdown()


def is_alive(node: str) -> bool:
    """Return True if the cluster counts this node as alive."""
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


def is_joined() -> bool:
    """Return False once the node is lost through which this process has joined. Then it must join again."""
    try:
        return is_alive(node_id())
    except RayError:
        # The head does not answer, so the nodes are unknown.
        return True


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
    environment["RAY_NUM_REDIS_GET_RETRIES"] = str(_PROBE_TRIES)
    environment.pop("RAY_AUTH_TOKEN_PATH", None)
    try:
        probe = subprocess.run(  # noqa: S603 - this very Python
            [sys.executable, "-c", script], env=environment, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def _has_token() -> bool:
    return child_environment().get("RAY_AUTH_MODE") == "token"
