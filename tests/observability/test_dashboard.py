"""Check the dashboard, the alerts and the scrape file under ops/ against the metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from minitoolai.observability.metrics import METRICS

OPS = Path(__file__).parent.parent.parent / "ops"
#: Process metrics that prometheus_client adds.
OF_PROCESS = {
    f"process_{name}"
    for name in ("resident_memory_bytes", "virtual_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds")
}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OPS / "grafana" / "minitoolai.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OPS / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _names(expression: str) -> set[str]:
    """Return the metrics in an expression, without the suffixes of a histogram's samples."""
    found = set()
    for name in re.findall(r"\b(?:minitoolai|process)_\w+", re.sub(r'"[^"]*"', '""', expression)):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        found.add(base if base in METRICS else name)
    return found


def test_every_metric_on_the_dashboard_exists() -> None:
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    shown = set().union(*(_names(target["expr"]) for panel in panels for target in panel["targets"]))
    assert shown - set(METRICS) - OF_PROCESS == set()
    # All other metrics are on the dashboard.
    assert set(METRICS) - shown <= {"minitoolai_info", "minitoolai_database_up", "minitoolai_books_checked_seconds"}


def test_every_alert_uses_existing_metrics_and_has_a_description() -> None:
    assert len(rules()) >= 10
    for rule in rules():
        assert _names(rule["expr"]), rule["alert"]
        assert _names(rule["expr"]) - set(METRICS) - OF_PROCESS == set(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} <= set(rule["annotations"])
        assert rule["expr"].count("(") == rule["expr"].count(")")
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_expressions_group_and_select_by_labels_of_their_metrics() -> None:
    expressions = [rule["expr"] for rule in rules()]
    expressions += [t["expr"] for p in dashboard()["panels"] if p["type"] != "row" for t in p["targets"]]
    for expression in expressions:
        labels = {label for name in _names(expression) if name in METRICS for label in METRICS[name].labels}
        for inside in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            assert {label.strip() for label in inside.split(",")} <= labels | {"le", "instance"}, expression
        for selected in re.findall(r"\{(\w+)=", expression):
            assert selected in labels | {"job"}, expression


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_the_scrape_file_has_the_documented_port() -> None:
    jobs = yaml.safe_load((OPS / "prometheus" / "scrape.yml").read_text())
    assert jobs[0]["job_name"] == "minitoolai"
    assert jobs[0]["static_configs"][0]["targets"] == ["127.0.0.1:9464"]
