"""Read /metrics and the JSON log of a server under test, as Prometheus and a log collector would."""

from __future__ import annotations

import json
import re
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import ServerProcess


def address(server: ServerProcess) -> str:
    """Return the URL of the metrics, from the newest log line about it."""
    return re.findall(r"metrics at (http://[^\s\"]+)", server.log.read_text())[-1]


def by_labels(url: str, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the sum of the samples of one metric by the values of these labels, without zeros."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(requests.get(url, timeout=10).text):
        for sample in family.samples:
            if sample.name == name and sample.value:
                key = tuple(sample.labels[label] for label in labels)
                found[key] = found.get(key, 0.0) + sample.value
    return found


def sums(url: str, token: str = "", **labels: str) -> dict[str, float]:
    """Return the sum of the samples with the given labels, by name."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = requests.get(url, headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if all(sample.labels.get(key, value) == value for key, value in labels.items()):
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    """Return the decoded log; a line that is not a JSON object fails the test."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]
