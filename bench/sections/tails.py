"""Throughput within latency tails: how many plain requests a second a gateway serves while the slowest percent is fast.

More and more connections send requests, each the next one after its response. The throughput within 5 ms is the
highest rate at which 99 % of the responses came within 5 ms.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.gateways import Gateway
from bench.guard import at_least
from bench.measure import Plan, Say, lab_of, load, warm_up
from bench.report import markdown

TAILS_MS = (1, 5, 10, 50, 100)
LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Level:
    """Hold what so many connections achieved."""

    callers: int
    rate: float
    p99_ms: float
    errors: int
    limit: str | None


def run(gateways: list[Gateway], plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Measure every level of every gateway; levels are interleaved like rounds."""
    with lab_of(gateways, plan, say) as lab:
        brief = replace(lab.plan, seconds=max(0.2, plan.seconds / 2))
        found: dict[str, list[Level]] = {row.name: [] for _, row, _ in lab.up}
        for _, row, running in lab.up:
            warm_up(row, running, brief)
        for callers in LEVELS:
            for _, row, running in lab.up:
                # Beyond the widest tail nothing counts.
                if (levels := found[row.name]) and levels[-1].p99_ms > TAILS_MS[-1]:
                    continue
                say(f"{callers} connections: {row.title}")
                sample = load(row, running, brief, callers=callers)
                if sample.done and sample.whole_p99_ms is not None:
                    levels.append(Level(callers, sample.rate, sample.whole_p99_ms, sample.errors, sample.limit))
        lab.check_books()
        return [
            {
                "name": row.name,
                "title": row.title,
                "books": row.books,
                "levels": [asdict(one) for one in found[row.name]],
            }
            for _, row, _ in lab.up
        ]


def within(levels: list[dict[str, Any]], tail_ms: float) -> dict[str, Any] | None:
    """Return the level with the highest rate of those whose 99th percentile is within the tail."""
    fast = [level for level in levels if level["p99_ms"] <= tail_ms and not level["errors"]]
    return max(fast, key=lambda level: level["rate"], default=None)


def table(found: list[dict[str, Any]]) -> str:
    """Return the table: requests a second within each tail."""
    heads = ["plain requests/s while p99 is within", *(f"{tail} ms" for tail in TAILS_MS)]
    lines = []
    for row in found:
        levels = [within(row["levels"], tail) for tail in TAILS_MS]
        cells = [at_least(f"{level['rate']:,.0f}", level["limit"]) if level else "–" for level in levels]
        lines.append([row["title"], *cells])
    return markdown(heads, lines)
