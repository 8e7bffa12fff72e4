"""The noise levels of the eighteen schedulers, in Stable Diffusion's convention.

sigma is the standard deviation of the noise on latents of about unit variance: x = x0 + sigma * noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

_PLAIN: Final = (
    "Euler a",
    "Euler",
    "LMS",
    "Heun",
    "DPM2",
    "DPM2 a",
    "DPM++ 2S a",
    "DPM++ 2M",
    "DPM++ SDE",
    "DPM++ 2M SDE",
    "DPM fast",
)
_KARRAS: Final = ("LMS", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE")

#: The names as AUTOMATIC1111 writes them; a name with "Karras" is the same method on another schedule.
SCHEDULERS: Final = (*_PLAIN, *(f"{name} Karras" for name in _KARRAS))

TIMESTEPS: Final = 1000
BETA_FIRST, BETA_LAST = 0.00085, 0.012
KARRAS_RHO: Final = 7.0
#: With zero signal the last sigma would be infinite. Like diffusers, use the sigma of this signal, about 4096.
LEAST_SIGNAL: Final = 2**-24

# Second-order methods that stop at the lowest level would take a tiny last step; these two skip that level.
_WITHOUT_LOWEST: Final = frozenset({"DPM2", "DPM2 a"})
_TWO_CALLS: Final = frozenset({"Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ SDE"})


@cache
def noise_table(*, zero_snr: bool = False) -> tuple[float, ...]:
    """Return sigma of each training timestep, rising. Betas are linear in their square roots (arXiv 2112.10752).

    `zero_snr`: for checkpoints whose last timestep is pure noise (arXiv 2305.08891, algorithm 1).
    """
    first, last = math.sqrt(BETA_FIRST), math.sqrt(BETA_LAST)
    signal, signals = 1.0, []
    for t in range(TIMESTEPS):
        beta = (first + (last - first) * t / (TIMESTEPS - 1)) ** 2
        signal *= 1.0 - beta
        signals.append(signal)
    if zero_snr:
        roots = [math.sqrt(signal) for signal in signals]
        stretch = roots[0] / (roots[0] - roots[-1])
        signals = [max(((root - roots[-1]) * stretch) ** 2, LEAST_SIGNAL) for root in roots]
    return tuple(math.sqrt((1.0 - signal) / signal) for signal in signals)


SIGMA_MIN: Final = noise_table()[0]
SIGMA_MAX: Final = noise_table()[-1]


def method_of(name: str) -> str:
    """Return the method of a scheduler. Raises ValueError for a name that is not one of the eighteen."""
    if name not in SCHEDULERS:
        raise ValueError(f"there is no scheduler {name!r}")
    return name.removesuffix(" Karras")


def sigmas(
    name: str, steps: int, *, trailing: bool = False, strength: float = 1.0, zero_snr: bool = False
) -> list[float]:
    """Return the levels in falling order. They end in 0, those of DPM fast in the lowest sigma.

    With `trailing`, timesteps lie at the end of each stride, as checkpoints distilled to few steps expect (2305.08891,
    table 2). Karras schedulers and DPM fast define their own levels and ignore it. `strength` (above 0 to 1) lowers the
    first level, for edits, and all steps are taken below it. It means the same level with every scheduler.
    """
    method = method_of(name)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, not {strength}")
    table = noise_table(zero_snr=zero_snr)
    if method == "DPM fast":
        return _log_uniform(len(fast_orders(steps)), table, strength)
    count = steps + (method in _WITHOUT_LOWEST)
    plain = _trailing if trailing else _discrete
    levels = (_karras if name.endswith(" Karras") else plain)(count, table, strength)
    return [*levels[:steps], 0.0]


def model_calls(name: str, steps: int) -> int:
    """Return the number of model calls for one image: `steps`, or 2 * steps - 1 for the two-call methods."""
    return 2 * steps - 1 if method_of(name) in _TWO_CALLS else steps


def fast_orders(calls: int) -> list[int]:
    """Return DPM-Solver-fast's orders (arXiv 2206.00927, section 3.4), which sum to the calls: 3 where possible.

    The last steps, in which the image hardly changes, get the lower orders.
    """
    whole, remainder = divmod(calls, 3)
    return [3] * whole + [remainder] if remainder else [3] * (whole - 1) + [2, 1]


def _discrete(count: int, table: Sequence[float], strength: float) -> list[float]:
    """Return `count` levels at even timesteps from 999 x strength to 0, interpolated linearly in ln sigma."""
    top = (TIMESTEPS - 1) * strength
    if count == 1:
        return _levels_at([top], table)
    return _levels_at([top * (count - 1 - i) / (count - 1) for i in range(count)], table)


def _trailing(count: int, table: Sequence[float], strength: float) -> list[float]:
    """Return `count` levels from timestep 999 x strength down, in even strides, without timestep 0."""
    return _levels_at([(TIMESTEPS - 1) * strength * (count - i) / count for i in range(count)], table)


def first_level(strength: float, table: Sequence[float]) -> float:
    """Return the level at which every scheduler begins: that of this share of the training timesteps."""
    return table[-1] if strength == 1 else _levels_at([(TIMESTEPS - 1) * strength], table)[0]


def _levels_at(timesteps: list[float], table: Sequence[float]) -> list[float]:
    levels = []
    for t in timesteps:
        below = min(int(t), TIMESTEPS - 2)
        share = t - below
        levels.append(math.exp((1 - share) * math.log(table[below]) + share * math.log(table[below + 1])))
    return levels


def _karras(count: int, table: Sequence[float], strength: float) -> list[float]:
    """Return levels at even sigma^(1/7) from the highest to the lowest (arXiv 2206.00364, equation 5)."""
    high, low = first_level(strength, table) ** (1 / KARRAS_RHO), table[0] ** (1 / KARRAS_RHO)
    return [(high + (low - high) * i / max(1, count - 1)) ** KARRAS_RHO for i in range(count)]


def _log_uniform(intervals: int, table: Sequence[float], strength: float) -> list[float]:
    """Return `intervals` + 1 levels at even ln sigma from the highest to the lowest."""
    high, low = math.log(first_level(strength, table)), math.log(table[0])
    return [math.exp(high + (low - high) * i / intervals) for i in range(intervals + 1)]
