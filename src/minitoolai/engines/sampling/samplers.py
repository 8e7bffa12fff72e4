"""The sampling methods as generators: each yields (x, sigma), receives the denoised x, and returns the image.

A generator does not call the model itself, so an engine can advance many images, each with its own method, in one model
call. x has any shape; sigma is a float; `noise(sigma, sigma_next)` is unit noise of x's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import Any

from minitoolai.engines.sampling.schedules import fast_orders, method_of, sigmas

#: An array of numpy, torch or another library; only +, - and * are used.
Array = Any
Noise = Callable[[float, float], Array]
#: Yields (x, sigma) to be denoised, receives x0, returns the image.
Trajectory = Generator[tuple[Array, float], Array, Array]


def sample(name: str, steps: int, unit_noise: Array, denoise: Callable[[Array, float], Array], noise: Noise) -> Array:
    """Sample one array from start to end, beginning with `unit_noise` times the first sigma."""
    path = trajectory(name, steps, unit_noise, noise)
    x, sigma = next(path)
    while True:
        try:
            x, sigma = path.send(denoise(x, sigma))
        except StopIteration as end:
            return end.value


def trajectory(
    name: str,
    steps: int,
    unit_noise: Array,
    noise: Noise,
    *,
    trailing: bool = False,
    zero_snr: bool = False,
    strength: float = 1.0,
    original: Array | None = None,
) -> Trajectory:
    """Return the generator of a scheduler, before its first model call. Raises ValueError for an unknown name.

    `original` is what an edit starts from; noise of the first level, which `strength` decides, is added to it.
    """
    levels = sigmas(name, steps, trailing=trailing, strength=strength, zero_snr=zero_snr)
    x = unit_noise * levels[0]
    if original is not None:
        x = x + original
    if name == "DPM fast":
        return dpm_fast(x, levels, noise, fast_orders(steps))
    return _METHODS[method_of(name)](x, levels, noise)


# ── steps that the methods share ──────────────────────────────────────────────────────────────────────────────


def euler_step(x: Array, denoised: Array, sigma: float, sigma_next: float) -> Array:
    """Take one Euler step of dx/dsigma = (x - x0) / sigma, exact for constant x0 (arXiv 2206.00364, equation 3).

    The same step is DPM-Solver++'s of first order: x0 + (sigma_next / sigma) * (x - x0).
    """
    return denoised + (sigma_next / sigma) * (x - denoised)


def ancestral_split(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Return (sigma to step down to, noise to add back) that together give the level sigma_next; eta = 1.

    The posterior variance of DDPM (arXiv 2006.11239, equation 7) in terms of sigma.
    """
    up = min(sigma_next, math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2))
    return math.sqrt(sigma_next**2 - up**2), up


# ── the methods ───────────────────────────────────────────────────────────────────────────────────────────────


def _euler(x: Array, levels: Sequence[float], _: Noise) -> Trajectory:
    """Apply Euler (arXiv 2206.00364, algorithm 1 without its second evaluation)."""
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        x = euler_step(x, denoised, sigma, following)
    return x


def _euler_ancestral(x: Array, levels: Sequence[float], noise: Noise) -> Trajectory:
    """Step down with Euler, then add noise back."""
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        down, up = ancestral_split(sigma, following)
        x = euler_step(x, denoised, sigma, down)
        if following > 0:
            x = x + noise(sigma, following) * up
    return x


def _heun(x: Array, levels: Sequence[float], _: Noise) -> Trajectory:
    """Apply Heun's second order: the mean of the slopes at both ends (arXiv 2206.00364, algorithm 2, no churn)."""
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        ahead = euler_step(x, denoised, sigma, following)
        if following > 0:
            slope = (x - denoised) * (1 / sigma)
            denoised = yield ahead, following
            slope_ahead = (ahead - denoised) * (1 / following)
            ahead = x + (slope + slope_ahead) * ((following - sigma) / 2)
        x = ahead
    return x


def _lms(x: Array, levels: Sequence[float], _: Noise) -> Trajectory:
    """Apply Adams-Bashforth of up to order 4 on uneven levels."""
    slopes: list[Array] = []
    for i, (sigma, _following) in enumerate(pairwise(levels)):
        denoised = yield x, sigma
        slopes = [(x - denoised) * (1 / sigma), *slopes[:3]]
        for j, slope in enumerate(slopes):
            x = x + slope * _multistep_weight(levels, i, j, len(slopes))
    return x


def _multistep_weight(levels: Sequence[float], i: int, j: int, order: int) -> float:
    """Return the integral from levels[i] to levels[i + 1] of the Lagrange polynomial that is 1 at levels[i - j].

    Its degree is at most 3, so the two-point Gauss-Legendre rule is exact.
    """
    middle, half = (levels[i] + levels[i + 1]) / 2, (levels[i + 1] - levels[i]) / 2
    total = 0.0
    for point in (middle - half / math.sqrt(3), middle + half / math.sqrt(3)):
        others = [levels[i - k] for k in range(order) if k != j]
        total += math.prod((point - other) / (levels[i - j] - other) for other in others)
    return total * half


def _dpm_2(x: Array, levels: Sequence[float], _: Noise) -> Trajectory:
    """Apply DPM-Solver-2 (arXiv 2206.00364, appendix; 2206.00927): the slope at the geometric middle."""
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        if following > 0:
            x = yield from _midpoint_step(x, denoised, sigma, following)
        else:
            x = euler_step(x, denoised, sigma, following)
    return x


def _dpm_2_ancestral(x: Array, levels: Sequence[float], noise: Noise) -> Trajectory:
    """Step down with DPM-Solver-2, then add noise back."""
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        down, up = ancestral_split(sigma, following)
        if down > 0:
            x = yield from _midpoint_step(x, denoised, sigma, down)
            x = x + noise(sigma, following) * up
        else:
            x = euler_step(x, denoised, sigma, down)
    return x


def _midpoint_step(x: Array, denoised: Array, sigma: float, target: float) -> Trajectory:
    middle = math.sqrt(sigma * target)
    halfway = euler_step(x, denoised, sigma, middle)
    denoised = yield halfway, middle
    return x + (halfway - denoised) * ((target - sigma) / middle)


def _dpmpp_2s_ancestral(x: Array, levels: Sequence[float], noise: Noise) -> Trajectory:
    """Step down with DPM-Solver++(2S), r = 1/2 (arXiv 2211.01095, algorithm 1), then add noise back."""
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        down, up = ancestral_split(sigma, following)
        if down > 0:
            middle = math.sqrt(sigma * down)
            denoised = yield euler_step(x, denoised, sigma, middle), middle
        x = euler_step(x, denoised, sigma, down)
        if following > 0:
            x = x + noise(sigma, following) * up
    return x


def _dpmpp_2m(x: Array, levels: Sequence[float], _: Noise) -> Trajectory:
    """Apply DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), in lambda = -ln sigma."""
    previous, last_stride = None, math.nan
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        stride = math.log(sigma / following) if following > 0 else math.inf
        guess = denoised
        if previous is not None and following > 0:
            guess = denoised + (denoised - previous) * (stride / (2 * last_stride))
        x = euler_step(x, guess, sigma, following)
        previous, last_stride = denoised, stride
    return x


def _dpmpp_sde(x: Array, levels: Sequence[float], noise: Noise) -> Trajectory:
    """Apply stochastic DPM-Solver++ with two evaluations, r = 1/2.

    Both noise intervals start at the same level and overlap, so they need a Brownian path rather than fresh noise.
    """
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        if following > 0:
            middle = math.sqrt(sigma * following)
            down, up = ancestral_split(sigma, middle)
            denoised = yield euler_step(x, denoised, sigma, down) + noise(sigma, middle) * up, middle
            down, up = ancestral_split(sigma, following)
            x = euler_step(x, denoised, sigma, down) + noise(sigma, following) * up
        else:
            x = euler_step(x, denoised, sigma, following)
    return x


def _dpmpp_2m_sde(x: Array, levels: Sequence[float], noise: Noise) -> Trajectory:
    """Apply SDE-DPM-Solver++(2M), midpoint (arXiv 2211.01095, section 5 and appendix), in lambda = -ln sigma."""
    previous, last_stride = None, math.nan
    for sigma, following in pairwise(levels):
        denoised = yield x, sigma
        if following > 0:
            stride, ratio = math.log(sigma / following), following / sigma
            x = x * ratio**2 + denoised * (1 - ratio**2)
            if previous is not None:
                x = x + (denoised - previous) * ((1 - ratio**2) / 2 * (stride / last_stride))
            x = x + noise(sigma, following) * (following * math.sqrt(1 - ratio**2))
            previous, last_stride = denoised, stride
        else:
            x = denoised
    return x


def dpm_fast(x: Array, levels: Sequence[float], noise: Noise, orders: Sequence[int]) -> Trajectory:
    """Apply DPM-Solver-fast (arXiv 2206.00927, section 3.4 and appendix B), ancestral between its steps."""
    for (sigma, following), order in zip(pairwise(levels), orders, strict=True):
        down = max(ancestral_split(sigma, following)[0], levels[-1])
        up = math.sqrt(max(0.0, following**2 - down**2))
        x = yield from _singlestep(x, sigma, down, order)
        if up > 0:
            x = x + noise(sigma, following) * up
    return x


def _singlestep(x: Array, sigma: float, target: float, order: int) -> Trajectory:
    """Take one step of DPM-Solver of order 1, 2 or 3 in lambda = -ln sigma, on the noise rather than on x0."""
    stride = math.log(sigma / target)

    def at_share(share: float) -> tuple[float, float]:
        level = sigma * math.exp(-share * stride)
        return level, level * math.expm1(share * stride)

    denoised = yield x, sigma
    slope = (x - denoised) * (1 / sigma)
    _, whole = at_share(1.0)
    if order == 1:
        return x - slope * whole
    share = 1 / order
    level, part = at_share(share)
    guess = x - slope * part
    denoised = yield guess, level
    bend = (guess - denoised) * (1 / level) - slope
    if order == 2:
        return x - slope * whole - bend * (whole / (2 * share))
    level, part = at_share(2 * share)
    guess = x - slope * part - bend * (2 * (part / (2 * share * stride) - level))
    denoised = yield guess, level
    bend = (guess - denoised) * (1 / level) - slope
    return x - slope * whole - bend * ((whole / stride - target) / (2 * share))


_METHODS: dict[str, Callable[[Array, Sequence[float], Noise], Trajectory]] = {
    "Euler a": _euler_ancestral,
    "Euler": _euler,
    "LMS": _lms,
    "Heun": _heun,
    "DPM2": _dpm_2,
    "DPM2 a": _dpm_2_ancestral,
    "DPM++ 2S a": _dpmpp_2s_ancestral,
    "DPM++ 2M": _dpmpp_2m,
    "DPM++ SDE": _dpmpp_sde,
    "DPM++ 2M SDE": _dpmpp_2m_sde,
}
