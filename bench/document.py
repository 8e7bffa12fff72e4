"""Write docs/performance.md from a raw file of the bench and bench/performance.template.md.

A test holds that the committed document is what this writes from the committed raw file.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from bench import raw, report
from bench.measure import Row
from bench.sections import keys, memory, mixed, prompts, streams, tails

ROOT = Path(__file__).parent.parent
TEMPLATE = Path(__file__).with_name("performance.template.md")
DOCUMENT = ROOT / "docs" / "performance.md"
_SECTIONS = {"tails": tails, "streams": streams, "memory": memory, "prompts": prompts, "keys": keys, "mixed": mixed}
_CHARTS = {
    "growth": "What each measurement costs with a long history, relative to a short one",
    "engines": "What an image job costs the database with one engine and with 300",
}
_SPACES, _RULER = re.compile(r" +\|"), re.compile(r"-{3,}")


def main() -> int:
    """Write the document."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.document", description=__doc__,
        epilog="example: python -m bench.document docs/benchmarks/2026-12-01.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", type=Path, help="a raw file below docs/ with every section")
    parser.add_argument("--out", type=Path, default=DOCUMENT, help="where to write it (docs/performance.md)")
    args = parser.parse_args()
    args.out.write_text(document(args.file), "utf-8")
    return 0


def document(path: Path) -> str:
    """Return the document of a raw file."""
    results = raw.read(path)
    values = _facts(results, path) | {name: _table(results, name) for name in _SECTIONS}
    rows = [Row.from_json(row) for row in results["sections"]["table"]["results"]]
    values |= {"table": compact(report.table(rows)), "goals": _goals(rows)}
    values |= {name: _chart(name, text, path) for name, text in _CHARTS.items()}
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], TEMPLATE.read_text("utf-8"))
    return re.sub(r"\n{3,}", "\n\n", text)


def compact(table: str) -> str:
    """Return a table without the spaces that align it on a terminal."""
    return _RULER.sub("---", _SPACES.sub(" |", table)).replace("| ---", "|---")


def _table(results: dict[str, Any], name: str) -> str:
    section = results["sections"].get(name)
    return compact(_SECTIONS[name].table(section["results"])) if section else "Not measured in this run."


def _facts(results: dict[str, Any], path: Path) -> dict[str, str]:
    machine, versions = results["machine"], dict(results["versions"])
    loads = [section["load_average"] for section in results["sections"].values() if "load_average" in section]
    shown = {"nginx": "nginx", "haproxy": "HAProxy", "caddy": "Caddy", "smg": "smg", "tensorzero": "TensorZero",
             "litellm": "LiteLLM"}  # fmt: skip
    return {
        "file": f"benchmarks/{path.name}",
        "charts": "benchmarks",
        "date": results["date"],
        "commit": " and ".join(sorted({section["commit"] for section in results["sections"].values()})),
        "python": versions["python"],
        "cpu": machine["cpu"],
        "cores": str(machine["cores"]),
        "kernel": machine["kernel"],
        "load": f"{min(loads):.0f} to {max(loads):.0f}",
        "versions": "Peers: "
        + ", ".join(f"{title} {versions[name]}" for name, title in shown.items() if name in versions),
    }


def _chart(name: str, text: str, path: Path) -> str:
    """Return the image, or nothing if the chart was not drawn."""
    return f"![{text}](benchmarks/{name}.svg)\n" if path.with_name(f"{name}.svg").exists() else ""


def _goals(rows: list[Row]) -> str:
    """Return a row for each goal, with what this run reached."""
    by_name = {row.name: row for row in rows}
    ours, base, direct = by_name["minitoolai"], by_name[report.BASE], by_name["direct"]
    found = [
        (
            "plain request, CPU: at most 1.0 × smg, which bills nothing",
            report.ratio(ours.plain, base.plain),
            1.0,
            " ×",
            2,
        ),
        ("stream, CPU: at most 1.1 × smg", report.ratio(ours.stream, base.stream), 1.1, " ×", 2),
        (
            "first token alone: at most 0.8 ms later",
            report.added(ours, direct, "alone", "first_median_ms"),
            0.8,
            " ms",
            1,
        ),
        (
            "of 48 streams, median: at most 1.0 ms later",
            report.added(ours, direct, "stream", "first_median_ms"),
            1.0,
            " ms",
            1,
        ),
        ("of 48 streams, p99: at most 4 ms later", report.added(ours, direct, "stream", "first_p99_ms"), 4.0, " ms", 1),
    ]
    lines = []
    for goal, value, most, unit, digits in found:
        verdict = "not measured" if value is None else "met" if value <= most else "**not met**"
        lines.append(f"| {goal} | {report.number(value, digits)}{unit} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
