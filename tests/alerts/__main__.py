"""`make alerts`: a real Prometheus with the shipped rules beside servers in trouble, and beside a healthy one.

    python -m tests.alerts                      everything: 20 healthy minutes beside the troubles, two at a time
    python -m tests.alerts --only "full disk"   one scenario; may be repeated
    python -m tests.alerts --minutes 5          a shorter healthy time

Prints a table. Exit status 1 if a wanted alert did not fire within three minutes, or if another one fired.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.alerts.prometheus import Prometheus
from tests.alerts.scenarios import SCENARIOS, Scenario
from tests.support.books import new_file

#: A wanted alert must fire within this time after the trouble began.
WITHIN_S = 180.0
#: Healthy time before the trouble, so that rates have a past. Nothing may fire in it.
BEFORE_S = 60.0


@dataclass
class Finding:
    """Which alerts fired in one scenario, and how many seconds after the trouble began."""

    scenario: Scenario
    fired: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    watched_s: float = 0.0

    def row(self) -> str:
        """Return a row of a Markdown table."""
        fired = ", ".join(f"{name} {at_s:.0f} s" for name, at_s in sorted(self.fired.items(), key=lambda one: one[1]))
        return (
            f"| {self.scenario.name} | {fired or 'none'} | {self.watched_s:.0f} s | {'; '.join(self.faults) or 'ok'} |"
        )


def main() -> int:
    """Run the scenarios and print the table."""
    options = _options()
    chosen = [one for one in SCENARIOS if not options.only or one.name in options.only]
    with tempfile.TemporaryDirectory() as folder:
        # The template of all databases is made once, and not by two threads.
        new_file(Path(folder))
    with ThreadPoolExecutor(options.together) as pool:
        findings = list(pool.map(lambda one: _run(one, options), chosen))
    print("| trouble | alerts, after | watched | result |\n|---|---|---|---|")
    for finding in findings:
        print(finding.row())
    return 1 if any(finding.faults for finding in findings) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.alerts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], choices=[one.name for one in SCENARIOS])
    parser.add_argument("--minutes", type=float, default=20.0, help="of healthy time that must raise no alert (20)")
    parser.add_argument("--rate", type=float, default=6.0, help="requests a second for each server (6)")
    parser.add_argument("--together", type=int, default=2, help="scenarios that run at the same time (2)")
    parser.add_argument("--folder", help="where the servers keep their data; a temporary folder by default")
    return parser.parse_args()


def _run(scenario: Scenario, options: argparse.Namespace) -> Finding:
    finding = Finding(scenario)
    with tempfile.TemporaryDirectory(prefix="alerts-", dir=options.folder) as name, ExitStack() as stack:
        folder = Path(name)
        stage, trouble = scenario.stage(stack, folder, options.rate)
        prometheus = stack.enter_context(Prometheus(folder, [stage.target]))
        early, _ = prometheus.watch(set(), BEFORE_S)
        finding.faults += [f"{alert} fired before the trouble" for alert in early]
        trouble()
        within_s = WITHIN_S if scenario.wanted else options.minutes * 60
        finding.fired, finding.watched_s = prometheus.watch(set(scenario.wanted), within_s)
        # What else fires a little later must be a consequence, not another cause.
        if scenario.wanted:
            time.sleep(5)
            finding.fired |= dict.fromkeys(prometheus.firing() - finding.fired.keys(), finding.watched_s)
        missing = scenario.wanted - finding.fired.keys()
        strange = finding.fired.keys() - scenario.wanted - scenario.allowed
        finding.faults += [f"{alert} did not fire" for alert in sorted(missing)]
        finding.faults += [f"{alert} fired without cause" for alert in sorted(strange)]
    print(finding.row(), flush=True)
    return finding


if __name__ == "__main__":
    sys.exit(main())
