"""Run a real Prometheus with the shipped rules and scrape file, and ask it which alerts fire."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
import yaml

from tests.support.programs import program
from tests.support.waiting import eventually

OPS = Path(__file__).parent.parent.parent / "ops" / "prometheus"
#: How often Prometheus scrapes and evaluates by the shipped files.
INTERVAL = "15s"


class Prometheus:
    """One Prometheus that scrapes these targets. `rules`: another file than the shipped one."""

    def __init__(
        self, folder: Path, targets: list[str], *, interval: str = INTERVAL, rules: Path | None = None
    ) -> None:
        self._folder = folder / "prometheus"
        self._targets = targets
        self._interval = interval
        self._rules = rules or OPS / "alerts.yml"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Prometheus:
        self._folder.mkdir()
        jobs = yaml.safe_load((OPS / "scrape.yml").read_text())
        for job in jobs:
            job["static_configs"] = [{"targets": self._targets}]
            job["scrape_interval"] = self._interval
        config = {
            "global": {"evaluation_interval": self._interval},
            "rule_files": [str(self._rules.resolve())],
            "scrape_configs": jobs,
        }
        path = self._folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        log = self._folder / "prometheus.log"
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            program("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        eventually(self._is_ready, within_s=30)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def get(self, path: str) -> Any:
        """Return the data of an API response."""
        answer = requests.get(f"{self.url}/api/v1/{path}", timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules with their health."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def targets_up(self) -> int:
        """Return how many targets were scraped without an error."""
        return sum(target["health"] == "up" for target in self.get("targets")["activeTargets"])

    def watch(self, wanted: set[str], within_s: float) -> tuple[dict[str, float], float]:
        """Wait until all wanted alerts fire. Return when each alert fired first, in seconds, and how long it waited."""
        started_s, seen = time.monotonic(), dict[str, float]()
        while (now_s := time.monotonic() - started_s) < within_s:
            for name in self.firing():
                seen.setdefault(name, round(now_s, 1))
            if wanted and wanted <= seen.keys():
                break
            time.sleep(1)
        return seen, time.monotonic() - started_s


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port: int = taken.getsockname()[1]
    return port
