"""Start each gateway of the bench, or say why it cannot be started. MiniToolAI itself is in ours.py.

Every gateway gets a folder of its own and the ports of the mock upstream, and listens on loopback only.
"""

import json
import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from bench.peers import program
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


@dataclass
class Running:
    """Hold a running gateway. `child` is None for the upstream itself, whose CPU is not counted."""

    child: Child | None
    port: int
    key: str = "sk-bench"
    headers: list[str] = field(default_factory=list)


class Gateway(ABC):
    """A gateway that the bench can start."""

    name: ClassVar[str]
    title: ClassVar[str]
    bills: ClassVar[str] = "no"

    def missing(self) -> str | None:
        """Return why it cannot start here, or None."""
        return None if program(self.name) else "not installed: make bench-peers"

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


class Nginx(Gateway):
    name, title = "nginx", "nginx, proxy only"

    _CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 128; }}
  keepalive_requests 10000000;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""

    def start(self, place: Place) -> Running:
        port = free_port()
        config = place.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        text = self._CONFIG.format(folder=place.folder, upstream=place.full_port, port=port, user=user)
        config.write_text(text)
        command = [str(program("nginx")), "-c", str(config), "-p", str(place.folder)]
        return _up(command, port, place, within_s=10)


class Smg(Gateway):
    """Shepherd Model Gateway, the reference of the table: it routes, as the successor of sglang-router."""

    name, title = "smg", "smg (Rust)"

    def start(self, place: Place) -> Running:
        port = free_port()
        worker = f"http://127.0.0.1:{place.full_port}"
        command = [str(program(self.name)), "launch", "--worker-urls", worker, "--host", "127.0.0.1"]
        command += ["--port", str(port), "--log-level", "error"]
        command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        return _up(command, port, place, within_s=30)


class LiteLLM(Gateway):
    name, title = "litellm", "LiteLLM (Python)"

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
        return _up(command, port, place, within_s=120, env=quiet)


class Portkey(Gateway):
    name, title = "portkey", "Portkey (Node)"

    def start(self, place: Place) -> Running:
        port = free_port()
        command = ["node", str(program(self.name)), f"--port={port}", "--headless"]
        host = f"http://127.0.0.1:{place.full_port}/v1"
        running = _up(command, port, place, within_s=30, env={"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"})
        running.headers = ["x-portkey-provider: openai", f"x-portkey-custom-host: {host}"]
        return running


class Bare(Gateway):
    name, title = "bare", "bare ASGI proxy (the floor)"

    def missing(self) -> None:
        return None

    def start(self, place: Place) -> Running:
        port = free_port()
        upstream = f"http://127.0.0.1:{place.full_port}/v1"
        return _up([sys.executable, "-m", "bench.bare", str(port), upstream], port, place, within_s=20)


def _up(command: list[str], port: int, place: Place, *, within_s: float, env: dict[str, str] | None = None) -> Running:
    child = Child(command, log=place.folder / "log", cores=place.cores, env=env)
    try:
        child.wait_ready(f"http://127.0.0.1:{port}/healthz", within_s=within_s)
    except BaseException:
        child.stop()
        raise
    return Running(child, port)
