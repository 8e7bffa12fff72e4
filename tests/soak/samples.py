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


def table(found: Sequence[Sample], total_s: float) -> str:
    return ""


def excesses(found: Sequence[Sample], total_s: float) -> list[str]:
    return []
