"""Draw the charts of a raw file of the bench as SVG: CPU beside peers, throughput within tails, growth, 300 engines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from bench import raw
from bench.measure import Row
from bench.report import cpu
from bench.sections import tails
from bench.svg import Drawing, bars, lines

#: Not drawn: a second row of ours would repeat the first.
_LEFT_OUT = ("direct", "minitoolai-lean", "minitoolai-plan", "other", "other-lean")
_GROWTH_AIM = 1.2

_EXAMPLES = """examples:
  python -m bench.charts docs/benchmarks/2026-12-01.json --growth growth.json --fleet fleet.json
  python -m bench.growth --json growth.json && python -m bench.charts FILE.json --growth growth.json --out charts
"""


def main() -> int:
    """Write one SVG file for each chart that the results allow, and print their paths."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.charts", description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", type=Path, help="a raw file: python -m bench --into FILE")
    parser.add_argument("--growth", type=Path, metavar="FILE", help="results of python -m bench.growth --json FILE")
    parser.add_argument("--fleet", type=Path, metavar="FILE", help="results of python -m bench.fleet --json FILE")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write them (beside the raw file)")
    args = parser.parse_args()
    results = raw.read(args.file)
    for name in ("growth", "fleet"):
        if path := getattr(args, name):
            results["sections"][name] = {"results": json.loads(path.read_text("utf-8"))}
    folder = args.out or args.file.parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in charts(results).items():
        path = folder / f"{name}.svg"
        path.write_text(text, "utf-8")
        print(path)
    return 0


def charts(results: dict[str, Any]) -> dict[str, str]:
    """Return the SVG text of every chart for which there are results, by its name."""
    draw = {"table": ("cpu", cpu_chart), "tails": ("tails", tails_chart), "growth": ("growth", growth_chart),
            "fleet": ("engines", fleet_chart)}  # fmt: skip
    sections = results["sections"]
    return {name: chart(sections[section]["results"]) for section, (name, chart) in draw.items() if section in sections}


def cpu_chart(found: list[dict[str, Any]]) -> str:
    """Draw the CPU of a plain request and of a stream of every gateway."""
    rows = [Row.from_json(row) for row in found if row["name"] not in _LEFT_OUT and row["plain"]]
    panels, told = [], []
    for heading, kind, digits in (("Plain request, CPU ms", "plain", 3), ("Stream of 50 tokens, CPU ms", "stream", 2)):
        known = [(_short(row.title), value) for row in rows if (value := cpu(getattr(row, kind))) is not None]
        known.sort(key=lambda one: one[1])
        told.append(heading + ": " + ", ".join(f"{name} {value:.{digits}f}" for name, value in known))
        # The slowest may be a hundred times as slow: its bar is cut.
        widest = max([value for _, value in known if value <= 6 * median(value for _, value in known)], default=1.0)
        panels.append((heading, [(name, value, f"{value:.{digits}f}") for name, value in known], widest))
    title = "CPU per request, of the gateway's whole process tree; MiniToolAI bills each one"
    drawing = Drawing(62 + sum(44 + 26 * len(values) for _, values, _ in panels), title, ". ".join(told) + ".")
    top = 48.0
    for heading, values, widest in panels:
        top += bars(drawing, top, heading, values, widest)
    return drawing.render()


def tails_chart(found: list[dict[str, Any]]) -> str:
    """Draw the highest rate of plain requests within each latency tail."""
    series: list[tuple[str, list[float | None]]] = []
    for row in found:
        levels = [tails.within(row["levels"], tail) for tail in tails.TAILS_MS]
        series.append((_short(row["title"]), [level["rate"] if level else None for level in levels]))
    told = "; ".join(
        f"{name}: {', '.join(f'{value:,.0f}' if value else 'none' for value in values)}" for name, values in series
    )
    columns = [f"{tail} ms" for tail in tails.TAILS_MS]
    title = "Plain requests a second while 99 % of the responses come within …"
    drawing = Drawing(400, title, f"Requests a second within {', '.join(columns)}. {told}.")
    if any(value for _, values in series for value in values):
        lines(drawing, 60, columns, series)
    return drawing.render()


def growth_chart(found: dict[str, dict[str, float]]) -> str:
    """Draw what each measurement costs with the longest history, as a multiple of the shortest."""
    sizes = sorted(found, key=int)
    first, last = found[sizes[0]], found[sizes[-1]]
    ratios = [(_without_unit(name), last[name] / max(first[name], 1e-9)) for name in first]
    title = f"Cost with {int(sizes[-1]):,} generations, divided by that with {int(sizes[0]):,}"
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios)
    drawing = Drawing(98 + 26 * len(ratios), title, f"The aim is at most {_GROWTH_AIM}. {told}.")
    widest = max(2.0, min(2.5, max(ratio for _, ratio in ratios)))
    bars(drawing, 48, f"1 is no growth; the dashed line is the aim, {_GROWTH_AIM}",
         [(name, ratio, f"{ratio:.2f}") for name, ratio in ratios], widest, _GROWTH_AIM)  # fmt: skip
    return drawing.render()


def fleet_chart(found: list[dict[str, float]]) -> str:
    """Draw what an image job costs the database with few and with many engines."""
    panels = (
        ("PostgreSQL's CPU for each job, ms", "cpu_ms_a_job", 1.0, ""),
        ("CPU of PostgreSQL without a job, % of a core", "idle_cpu", 100.0, " %"),
        ("From queued to begun, median, ms", "wait_ms", 1.0, ""),
    )
    title = f"Image jobs with {int(found[0]['engines'])} and {int(found[-1]['engines'])} engines on one database"
    told = []
    drawing = Drawing(50 + len(panels) * (44 + 26 * len(found)), title, "")
    top = 48.0
    for heading, name, factor, unit in panels:
        values = [(_engines(one), one[name] * factor) for one in found]
        told.append(f"{heading}: " + ", ".join(f"{engines} {value:.1f}" for engines, value in values))
        shown = [(engines, value, f"{value:.1f}{unit}") for engines, value in values]
        top += bars(drawing, top, heading, shown, max(value for _, value in values) or 1.0)
    drawing.describe(". ".join(told) + ".")
    return drawing.render()


def _without_unit(name: str) -> str:
    """Return what was measured: `audit after a start, ms: the last two days` is the audit after a start."""
    name = name.partition(":")[0].partition(" for each")[0]
    return name.rpartition(", ")[0] or name


def _engines(one: dict[str, float]) -> str:
    return "1 engine" if one["engines"] == 1 else f"{int(one['engines'])} engines"


def _short(title: str) -> str:
    """Return the title without what it says in brackets or after a comma."""
    return title.partition(" (")[0].partition(",")[0]


if __name__ == "__main__":
    sys.exit(main())
