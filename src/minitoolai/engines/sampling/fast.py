"""DPM-Solver-fast: steps of order 3, 2 and 1 in lambda = -ln sigma, planned from the count of model calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from minitoolai.engines.sampling.steps import Array, Noise, Trajectory, split


def dpm_fast(x: Array, levels: Sequence[float], noise: Noise, orders: Sequence[int]) -> Trajectory:
    """DPM-Solver-fast (arXiv 2206.00927, section 3.4 and appendix B), ancestral between its steps."""
    for (sigma, following), order in zip(pairwise(levels), orders, strict=True):
        down = max(split(sigma, following)[0], levels[-1])
        up = math.sqrt(max(0.0, following**2 - down**2))
        x = yield from _singlestep(x, sigma, down, order)
        if up > 0:
            x = x + noise(sigma, following) * up
    return x


def _singlestep(x: Array, sigma: float, target: float, order: int) -> Trajectory:
    """One step of DPM-Solver of order 1, 2 or 3 in lambda = -ln sigma, on the noise rather than on x0."""
    stride = math.log(sigma / target)

    def moved(share: float) -> tuple[float, float]:
        level = sigma * math.exp(-share * stride)
        return level, level * math.expm1(share * stride)

    denoised = yield x, sigma
    slope = (x - denoised) * (1 / sigma)
    _, whole = moved(1.0)
    if order == 1:
        return x - slope * whole
    share = 1 / order
    level, part = moved(share)
    guess = x - slope * part
    denoised = yield guess, level
    bend = (guess - denoised) * (1 / level) - slope
    if order == 2:
        return x - slope * whole - bend * (whole / (2 * share))
    level, part = moved(2 * share)
    guess = x - slope * part - bend * (2 * (part / (2 * share * stride) - level))
    denoised = yield guess, level
    bend = (guess - denoised) * (1 / level) - slope
    return x - slope * whole - bend * ((whole / stride - target) / (2 * share))
