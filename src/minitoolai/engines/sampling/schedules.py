"""Which noise levels each of the eighteen schedulers visits, in Stable Diffusion's noise convention.

sigma is the noise's standard deviation on latents of about unit variance: x = x0 + sigma * noise.
"""

from __future__ import annotations

import math
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

# A second-order method that lands on the lowest level takes a tiny last step; these two leave that level out.
_WITHOUT_LOWEST: Final = frozenset({"DPM2", "DPM2 a"})
_TWO_CALLS: Final = frozenset({"Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ SDE"})


@cache
def noise_table() -> tuple[float, ...]:
    """sigma of each of the 1000 training timesteps, rising: betas linear in their roots (2112.10752)."""
    first, last = math.sqrt(BETA_FIRST), math.sqrt(BETA_LAST)
    signal, table = 1.0, []
    for t in range(TIMESTEPS):
        beta = (first + (last - first) * t / (TIMESTEPS - 1)) ** 2
        signal *= 1.0 - beta
        table.append(math.sqrt((1.0 - signal) / signal))
    return tuple(table)


SIGMA_MIN: Final = noise_table()[0]
SIGMA_MAX: Final = noise_table()[-1]


def method_of(name: str) -> str:
    """The method behind a scheduler's name. ValueError for a name that is not one of the eighteen."""
    if name not in SCHEDULERS:
        raise ValueError(f"no scheduler is called {name!r}")
    return name.removesuffix(" Karras")


def sigmas(name: str, steps: int, *, trailing: bool = False) -> list[float]:
    """The levels in falling order from the start's; they end in 0, but for DPM fast in SIGMA_MIN.

    `trailing`: timesteps that end where a stride begins, as checkpoints distilled to few steps were trained
    (2305.08891, table 2). Names with Karras and DPM fast have levels of their own and keep them.
    """
    method = method_of(name)
    if steps < 1:
        raise ValueError(f"at least one step is needed, not {steps}")
    if method == "DPM fast":
        return _log_uniform(len(fast_orders(steps)))
    count = steps + (method in _WITHOUT_LOWEST)
    plain = _trailing if trailing else _discrete
    levels = _karras(count) if name.endswith(" Karras") else plain(count)
    return [*levels[:steps], 0.0]


def model_calls(name: str, steps: int) -> int:
    """How often the model is asked for one picture: `steps`, or 2 * steps - 1 for the two-call methods."""
    return 2 * steps - 1 if method_of(name) in _TWO_CALLS else steps


def fast_orders(calls: int) -> list[int]:
    """DPM-Solver-fast's plan (arXiv 2206.00927, section 3.4): orders that sum to the calls, 3 where possible.

    The last steps, where the picture hardly moves any more, take what is left over.
    """
    whole, rest = divmod(calls, 3)
    return [3] * whole + [rest] if rest else [3] * (whole - 1) + [2, 1]


def _discrete(count: int) -> list[float]:
    """`count` timesteps evenly from 999 to 0; between two of the table's levels, linear in ln sigma."""
    if count == 1:
        return [SIGMA_MAX]
    return _levels_at([(TIMESTEPS - 1) * (count - 1 - i) / (count - 1) for i in range(count)])


def _trailing(count: int) -> list[float]:
    """`count` timesteps from 999 down, a stride of 999 / `count` apart; the last stride ends at 0, which is not one."""
    return _levels_at([(TIMESTEPS - 1) * (count - i) / count for i in range(count)])


def _levels_at(timesteps: list[float]) -> list[float]:
    table, levels = noise_table(), []
    for t in timesteps:
        below = min(int(t), TIMESTEPS - 2)
        share = t - below
        levels.append(math.exp((1 - share) * math.log(table[below]) + share * math.log(table[below + 1])))
    return levels


def _karras(count: int) -> list[float]:
    """Evenly in sigma^(1/7) from SIGMA_MAX to SIGMA_MIN (arXiv 2206.00364, equation 5)."""
    high, low = SIGMA_MAX ** (1 / KARRAS_RHO), SIGMA_MIN ** (1 / KARRAS_RHO)
    return [(high + (low - high) * i / max(1, count - 1)) ** KARRAS_RHO for i in range(count)]


def _log_uniform(intervals: int) -> list[float]:
    """`intervals` + 1 levels evenly in ln sigma from SIGMA_MAX to SIGMA_MIN."""
    high, low = math.log(SIGMA_MAX), math.log(SIGMA_MIN)
    return [math.exp(high + (low - high) * i / intervals) for i in range(intervals + 1)]
