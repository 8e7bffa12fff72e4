"""Prompts of 100,000 tokens: CPU and time of one plain request whose body has half a megabyte."""

from dataclasses import asdict, replace
from statistics import median
from typing import Any

from bench.gateways import Gateway
from bench.measure import Plan, Sample, Say, lab_of, load
from bench.report import markdown, number

WORDS = 100_000
CALLERS = 4


def run(gateways: list[Gateway], plan: Plan, say: Say, words: int = WORDS) -> list[dict[str, Any]]:
    """Send long prompts in interleaved rounds, on four connections."""
    with lab_of(gateways, plan, say) as lab:
        found: dict[str, list[Sample]] = {row.name: [] for _, row, _ in lab.up}
        for number_of_round in range(-1, plan.rounds):
            for _, row, running in lab.up:
                say(f"long prompts, round {number_of_round + 1} of {plan.rounds}: {row.title}")
                timed = replace(lab.plan, seconds=plan.seconds if number_of_round >= 0 else min(1.0, plan.seconds))
                sample = load(row, running, timed, "--words", str(words), callers=CALLERS)
                if number_of_round >= 0:
                    found[row.name].append(sample)
        lab.check_books()
        return [
            {
                "name": row.name, "title": row.title, "books": row.books, "complaints": row.complaints[:1],
                "samples": [asdict(sample) for sample in found[row.name]],
            }
            for _, row, _ in lab.up
        ]  # fmt: skip


def medians(row: dict[str, Any], name: str) -> float | None:
    """Return the median of one figure over the rounds."""
    values = [sample[name] for sample in row["samples"] if sample[name] is not None]
    return median(values) if values else None


def table(found: list[dict[str, Any]]) -> str:
    """Return the table of long prompts."""
    direct = next((medians(row, "whole_median_ms") for row in found if row["name"] == "direct"), None)
    lines = []
    for row in found:
        whole = medians(row, "whole_median_ms")
        extra = None if whole is None or direct is None or row["name"] == "direct" else whole - direct
        errors = sum(sample["errors"] for sample in row["samples"])
        p99 = medians(row, "whole_p99_ms")
        lines.append([row["title"], number(medians(row, "cpu_ms"), 2), number(extra, 1), number(p99, 1), f"{errors:,}"])
    return markdown(["prompts of 100,000 tokens", "CPU ms", "time +ms", "p99, ms", "errors"], lines)
