"""Counting without a cost worth mentioning: plain integers, and buckets that are fixed beforehand."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """How often a value fell into each bucket. Whole numbers in, of one unit; turned into seconds only when read."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, *bounds: int) -> None:
        """`bounds` ascend; each bucket takes values up to and including its own, one more takes the rest."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self, unit: float) -> list[tuple[str, float]]:
        """Upper bound, as text and in multiples of `unit`, with the number of values up to it; the last is +Inf."""
        rows, so_far = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            so_far += count
            rows.append((f"{bound * unit:g}", float(so_far)))
        return [*rows, ("+Inf", float(so_far + self.counts[-1]))]
