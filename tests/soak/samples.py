"""Measure a server and its child processes from outside, and fit slopes to what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from tests.support.waiting import children_of

HOUR_S = 3600.0


@dataclass(frozen=True)
class Sample:
    """The state of a server at one moment: memory in MB, counts, and latency in ms since the last sample."""

    at_s: float
    resident_mb: float
    memory_mb: float
    children_mb: float
    children: int
    descriptors: int
    threads: int
    median_ms: float
    p99_ms: float
    answers: int

    def line(self) -> str:
        """Return the sample as a line of JSON."""
        return json.dumps({name: round(value, 3) for name, value in asdict(self).items()})


def take(pid: int, at_s: float, latency_ms: Sequence[float], answers: int) -> Sample:
    """Measure the process and its children now."""
    children = children_of(pid)
    ordered = sorted(latency_ms) or [0.0]
    return Sample(
        at_s=at_s,
        resident_mb=_memory_mb(pid, "VmRSS"),
        memory_mb=_memory_mb(pid, "RssAnon"),
        children_mb=sum(_memory_mb(child, "RssAnon") for child in children),
        children=len(children),
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
        median_ms=median(ordered),
        p99_ms=ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        answers=answers,
    )


def read(path: Path) -> list[Sample]:
    """Return the samples in a file of lines of JSON."""
    return [Sample(**json.loads(line)) for line in path.read_text().splitlines()]


def slope(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """Return the slope per hour of a straight line through the samples (least squares)."""
    count = len(samples)
    mean_s = sum(one.at_s for one in samples) / count
    mean = sum(map(of, samples)) / count
    spread = sum((one.at_s - mean_s) ** 2 for one in samples)
    return HOUR_S * sum((one.at_s - mean_s) * (of(one) - mean) for one in samples) / spread if spread else 0.0


def values() -> list[str]:
    """Return the names of what is measured, without the time and the number of answers."""
    return [field.name for field in fields(Sample) if field.name not in ("at_s", "answers", "children")]


def _memory_mb(pid: int, kind: str) -> float:
    """Return the resident memory of a process, 0 if it is gone. `RssAnon` is the part that no file backs."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(found[kind].split()[0]) / 1024 if kind in found else 0.0


@dataclass(frozen=True)
class Limit:
    """The largest slope of one value per hour, after the warm-up."""

    name: str
    unit: str
    per_hour: float


#: What grows faster than this is a leak. A short form has a short warm-up and few samples, so it gets more.
LIMITS = (
    Limit("memory_mb", "MB", 1.0),
    Limit("children_mb", "MB", 2.0),
    Limit("descriptors", "", 3.0),
    Limit("threads", "", 1.0),
    Limit("median_ms", "ms", 5.0),
)
SHORT_FORM = 15.0
#: A run shorter than this is a short form.
FULL_S = 2 * HOUR_S


def warm_up_s(total_s: float) -> float:
    """Return how long caches, pools and the allocator may fill: an hour, or half of a short form."""
    return min(HOUR_S, total_s / 2)


def limit_of(limit: Limit, total_s: float) -> float:
    """Return the largest slope for a run of this length."""
    return limit.per_hour * (1.0 if total_s >= FULL_S else SHORT_FORM)


def _later(found: Sequence[Sample], total_s: float) -> list[Sample]:
    return [sample for sample in found if sample.at_s >= warm_up_s(total_s)]


def _reader(name: str) -> Callable[[Sample], float]:
    return lambda sample: float(getattr(sample, name))


def table(found: Sequence[Sample], total_s: float) -> str:
    """Return a Markdown table of every value: at the start, after the warm-up, at the end, and its slope."""
    later = _later(found, total_s)
    limits = {limit.name: f"{limit_of(limit, total_s):g}" for limit in LIMITS}
    rows = ["| value | start | after the warm-up | end | slope per hour | limit |", "|---|---:|---:|---:|---:|---:|"]
    for name in values():
        read_value = _reader(name)
        first, warm, last = (read_value(sample) for sample in (found[0], later[0], later[-1]))
        rows.append(
            f"| {name} | {first:.1f} | {warm:.1f} | {last:.1f} | {slope(later, read_value):+.2f} |"
            f" {limits.get(name, '')} |"
        )
    answers, hours = later[-1].answers - later[0].answers, (later[-1].at_s - later[0].at_s) / HOUR_S
    return "\n".join([*rows, f"\n{answers} answers in {hours:.2f} hours after {warm_up_s(total_s) / 60:.0f} minutes."])


def excesses(found: Sequence[Sample], total_s: float) -> list[str]:
    """Return what grew too fast after the warm-up."""
    later = _later(found, total_s)
    slopes = [(limit, slope(later, _reader(limit.name))) for limit in LIMITS]
    return [
        f"{limit.name} grew by {grown:.2f} {limit.unit} an hour; the limit is {limit_of(limit, total_s):g}"
        for limit, grown in slopes
        if grown > limit_of(limit, total_s)
    ]
