"""Start each gateway of the bench, or say why it cannot be started. Plain proxies are in proxies.py, we in ours.py.

Every gateway gets a folder of its own and the ports of the mock upstream, and listens on loopback only.
"""

import json
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bench.peers import package_version, program
from bench.procs import Child, free_port

MODEL = "gpt-4o-mini"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Place:
    """Hold where a gateway runs: its folder, its core, and the two ports of the mock."""

    folder: Path
    cores: set[int] | None
    full_port: int
    lean_port: int
    #: The process of the mock, whose CPU the guard watches.
    mock_pid: int | None = None


@dataclass
class Running:
    """Hold a running gateway. `child` is None for the upstream itself, whose CPU is not counted."""

    child: Child | None
    port: int
    key: str = "sk-bench"
    model: str = MODEL
    path: str = CHAT
    headers: list[str] = field(default_factory=list)


class Gateway(ABC):
    """A gateway that the bench can start."""

    name: ClassVar[str]
    title: ClassVar[str]
    bills: ClassVar[str] = "no"
    #: The Python package whose version is that of the gateway.
    package: ClassVar[str] = ""
    #: Whether it refuses unknown keys as the bench runs it.
    checks_keys: ClassVar[bool] = False

    def missing(self) -> str | None:
        """Return why it cannot start here, or None."""
        return None if program(self.name) else "not installed: make bench-peers"

    def version(self) -> str:
        """Return the installed version, or nothing if it has none of its own."""
        return package_version(self.name, self.package) if self.package else ""

    def bad_key(self, number: int) -> str:
        """Return a key that looks right and does not exist."""
        return f"sk-bad-{number:08}"

    @abstractmethod
    def start(self, place: Place) -> Running: ...

    def check_books(self, running: Running, *, answers: int, errors: int) -> str:
        """Check the accounts after the load, for gateways that bill. Return the result for the table."""
        return "–"


class Direct(Gateway):
    name, title = "direct", "upstream, without a gateway"

    def missing(self) -> None:
        return None

    def start(self, place: Place) -> Running:
        return Running(None, place.full_port)


class Smg(Gateway):
    """Shepherd Model Gateway, the successor of sglang-router. It is the reference of the table."""

    name, title, package = "smg", "smg (Rust)", "smg"

    def start(self, place: Place) -> Running:
        port = free_port()
        worker = f"http://127.0.0.1:{place.full_port}"
        command = [str(program(self.name)), "launch", "--worker-urls", worker, "--host", "127.0.0.1"]
        command += ["--port", str(port), "--log-level", "error"]
        command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        return start_child(command, port, place, within_s=30)


class LiteLLM(Gateway):
    name, title, package = "litellm", "LiteLLM (Python)", "litellm"
    checks_keys = True

    def start(self, place: Place) -> Running:
        port = free_port()
        target = {
            "model": f"openai/{MODEL}",
            "api_base": f"http://127.0.0.1:{place.full_port}/v1",
            "api_key": "sk-upstream",
        }
        config = {
            "model_list": [{"model_name": MODEL, "litellm_params": target}],
            "general_settings": {"master_key": "sk-bench"},
            "litellm_settings": {"telemetry": False},
        }
        path = place.folder / "litellm.yaml"
        path.write_text(json.dumps(config))
        command = [str(program(self.name)), "--config", str(path), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--num_workers", "1"]
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
        return start_child(command, port, place, within_s=120, env=quiet)


class TensorZero(Gateway):
    """TensorZero's embedded gateway, served over HTTP as its Python client does for an OpenAI client."""

    name, title, package = "tensorzero", "TensorZero, embedded (Rust)", "tensorzero"

    _CONFIG = """
[gateway]
observability.enabled = false
[models."{model}"]
routing = ["mock"]
[models."{model}".providers.mock]
type = "openai"
model_name = "{model}"
api_base = "http://127.0.0.1:{upstream}/v1/"
api_key_location = "none"
"""

    def start(self, place: Place) -> Running:
        config, port_file = place.folder / "tensorzero.toml", place.folder / "port"
        config.write_text(self._CONFIG.format(model=MODEL, upstream=place.full_port))
        script = Path(__file__).parent / "embedded_tensorzero.py"
        command = [str(program(self.name)), str(script), str(config), str(port_file)]
        child = Child(command, log=place.folder / "log", cores=place.cores)
        try:
            port = int(child.wait_for_file(port_file, within_s=30))
        except BaseException:
            child.stop()
            raise
        return Running(child, port, model=f"tensorzero::model_name::{MODEL}", path=f"/openai{CHAT}")


class Bare(Gateway):
    name, title = "bare", "bare ASGI proxy (the floor)"

    def missing(self) -> None:
        return None

    def start(self, place: Place) -> Running:
        port = free_port()
        upstream = f"http://127.0.0.1:{place.full_port}/v1"
        return start_child([sys.executable, "-m", "bench.bare", str(port), upstream], port, place, within_s=20)


def start_child(
    command: list[str], port: int, place: Place, *, within_s: float, env: dict[str, str] | None = None
) -> Running:
    """Start the command and return once its port responds."""
    child = Child(command, log=place.folder / "log", cores=place.cores, env=env)
    try:
        child.wait_ready(f"http://127.0.0.1:{port}/healthz", within_s=within_s)
    except BaseException:
        child.stop()
        raise
    return Running(child, port)
