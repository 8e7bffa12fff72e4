"""Test the alerts with Prometheus itself: its unit tests, and a server in trouble. `make alerts` takes all troubles."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.alerts.prometheus import OPS, Prometheus
from tests.alerts.scenarios import SCENARIOS
from tests.support.programs import program
from tests.support.waiting import eventually

ROOT = OPS.parent.parent
RULES = OPS / "alerts.yml"
#: The rules of the short form run faster than the shipped ones by this factor.
FASTER = 10


def names() -> list[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=OPS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_are_valid_and_fire_when_they_should() -> None:
    promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_every_alert_of_a_page_has_a_unit_test() -> None:
    tested = set(re.findall(r"alertname: (\w+)", (OPS / "alerts_test.yml").read_text()))
    assert tested <= set(names())
    wanted = set().union(*(scenario.wanted for scenario in SCENARIOS))
    # Tried against real servers only: their metrics are not simple to make up.
    assert wanted & set(names()) <= tested


def test_the_guide_says_what_to_do_about_every_alert() -> None:
    guide = (ROOT / "docs" / "howto" / "monitor.md").read_text().partition("| alert | what it means")[2]
    table = guide.partition("\n\n")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(names())


def faster(text: str) -> str:
    """Shorten every duration in the rules."""

    def shorten(found: re.Match[str]) -> str:
        seconds = int(found[2]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[3]]
        return f"{found[1]}{max(1, seconds // FASTER)}s"

    return re.sub(r"(for: |\[)(\d+)([smhd])\b", shorten, text)


@pytest.mark.acceptance
def test_a_real_prometheus_raises_the_alerts_of_a_dead_upstream_and_none_before(tmp_path: Path) -> None:
    rules = tmp_path / "faster.yml"
    rules.write_text(faster(RULES.read_text()))
    scenario = next(one for one in SCENARIOS if one.name == "dead upstream")
    with ExitStack() as stack:
        stage, trouble = scenario.stage(stack, tmp_path, 8.0)
        prometheus = stack.enter_context(Prometheus(tmp_path, [stage.target], interval="1s", rules=rules))
        eventually(lambda: prometheus.targets_up() == 1, within_s=20)
        # With the times shortened, one pause of a busy machine is enough for this alert.
        busy = {"EventLoopHeld"}
        early, _ = prometheus.watch(set(), 12)
        assert early.keys() <= busy
        assert {rule["name"] for rule in prometheus.rules()} == set(names())
        assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
        trouble()
        fired, _ = prometheus.watch(set(scenario.wanted), 25)
        assert scenario.wanted <= fired.keys() <= scenario.wanted | scenario.allowed | busy, fired
