"""What the sampling methods share: their types, a step of first order, and the ancestral split."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

#: numpy, torch or any other library's array; all that is asked of it is +, - and *.
Array = Any
Noise = Callable[[float, float], Array]
#: Yields (x, sigma) to be denoised, is sent x0, returns the picture.
Trajectory = Generator[tuple[Array, float], Array, Array]


def towards(x: Array, denoised: Array, sigma: float, sigma_next: float) -> Array:
    """One Euler step of dx/dsigma = (x - x0) / sigma, exact while x0 stays (arXiv 2206.00364, equation 3).

    The same step is DPM-Solver++'s of first order: x0 + (sigma_next / sigma) * (x - x0).
    """
    return denoised + (sigma_next / sigma) * (x - denoised)


def split(sigma: float, sigma_next: float) -> tuple[float, float]:
    """(sigma to step down to, noise to add back), so that the level is sigma_next again; eta = 1.

    The posterior variance of DDPM (arXiv 2006.11239, equation 7) in terms of sigma.
    """
    up = min(sigma_next, math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2))
    return math.sqrt(sigma_next**2 - up**2), up
