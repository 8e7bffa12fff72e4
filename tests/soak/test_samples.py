"""Test the slopes of a soak: they find a leak, and ignore noise and the warm-up."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.soak import samples
from tests.soak.samples import HOUR_S, Sample


def run(memory_per_hour: float, *, hours: float = 3.0, warm_up_mb: float = 0.0, noise_mb: float = 2.0) -> list[Sample]:
    """Return a sample each ten seconds, with noise."""
    draw, found = random.Random(1), []
    for number in range(int(hours * HOUR_S / 10)):
        at_s = number * 10.0
        memory = 100 + memory_per_hour * at_s / HOUR_S + draw.uniform(-noise_mb, noise_mb)
        memory += warm_up_mb * min(1.0, at_s / HOUR_S)
        found.append(Sample(at_s, memory + 20, memory, 300, 4, 50 + number % 3, 15, 5.0, 20.0, number * 100))
    return found


@pytest.mark.parametrize(("per_hour", "is_leak"), [(0.0, False), (0.8, False), (1.5, True), (39.0, True)])
def test_a_leak_is_found_below_the_noise(per_hour: float, *, is_leak: bool) -> None:
    found = samples.excesses(run(per_hour), 3 * HOUR_S)
    assert [text.partition(" ")[0] for text in found] == (["memory_mb"] if is_leak else [])


def test_the_growth_of_the_first_hour_does_not_count() -> None:
    found = run(0.0, warm_up_mb=60)
    assert samples.excesses(found, 3 * HOUR_S) == []
    assert "| memory_mb | 98" in samples.table(found, 3 * HOUR_S)


def test_a_short_form_has_wider_limits() -> None:
    assert samples.warm_up_s(1200) == 600
    assert samples.excesses(run(5.0, hours=1 / 3, noise_mb=0.1), 1200) == []
    # 0.65 MB a minute, as a server once grew.
    assert samples.excesses(run(39.0, hours=1 / 3, noise_mb=0.1), 1200) != []


def test_samples_are_kept_as_lines(tmp_path: Path) -> None:
    sample = samples.take(os.getpid(), 1.5, [3.0, 1.0, 2.0], 7)
    assert (sample.median_ms, sample.p99_ms, sample.answers) == (2.0, 3.0, 7)
    assert sample.memory_mb > 1
    assert sample.resident_mb >= sample.memory_mb
    assert sample.threads >= 1
    path = tmp_path / "samples.jsonl"
    path.write_text(sample.line() + "\n")
    (read,) = samples.read(path)
    assert read.memory_mb == pytest.approx(sample.memory_mb, abs=0.001)
