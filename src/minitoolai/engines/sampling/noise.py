"""Seeded noise for one image. It depends on the seed only, so an image is independent of its batch.

The noise is a Brownian path over sigma: overlapping intervals agree with each other, as the SDE samplers need, and
disjoint intervals are independent, which is all that the ancestral samplers need.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from minitoolai.engines.sampling.schedules import SIGMA_MAX

_START, _PATH = 0, 1


class SeededNoise:
    """The initial noise and the Brownian path of one seed, as float64 arrays of `shape`.

    The path is a tree of midpoints over [0, top] (Gaines and Lyons 1997). Each node uses a generator seeded with the
    node's number, so no value depends on earlier queries.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], top: float = SIGMA_MAX, depth: int = 24) -> None:
        self._seed = seed
        self._shape = shape
        self._top = top
        self._depth = depth

    def start(self) -> NDArray[np.float64]:
        """Return the initial unit noise."""
        return self._normal(_START, 0)

    def __call__(self, sigma: float, sigma_next: float) -> NDArray[np.float64]:
        """Return the path's increment between two levels at unit variance. Raises ValueError outside [0, top]."""
        if sigma == sigma_next:
            raise ValueError("the noise of an empty interval is undefined")
        rise = self._path(sigma) - self._path(sigma_next)
        return rise / math.sqrt(abs(sigma - sigma_next)) * math.copysign(1.0, sigma - sigma_next)

    def _path(self, sigma: float) -> NDArray[np.float64]:
        """Return W(sigma), with W(0) = 0: bisect [0, top] towards sigma, then interpolate in the last 2^-24."""
        if not -1e-9 <= sigma <= self._top * (1 + 1e-9):
            raise ValueError(f"sigma {sigma} is outside [0, {self._top}]")
        left, right = 0.0, self._top
        at_left = np.zeros(self._shape)
        at_right = self._normal(_PATH, 0) * math.sqrt(self._top)
        node = 1
        for _ in range(self._depth):
            middle = (left + right) / 2
            at_middle = (at_left + at_right) / 2 + self._normal(_PATH, node) * (math.sqrt(right - left) / 2)
            node *= 2
            if sigma < middle:
                right, at_right = middle, at_middle
            else:
                left, at_left, node = middle, at_middle, node + 1
        share = (sigma - left) / (right - left)
        return at_left + (at_right - at_left) * share

    def _normal(self, kind: int, node: int) -> NDArray[np.float64]:
        return np.random.default_rng([self._seed, kind, node]).standard_normal(self._shape)


class LazySeededNoise:
    """The initial noise and the Brownian path of one seed, for large images: a point costs one array instead of 24.

    Each queried point is drawn between its existing neighbours (a Brownian bridge) by its own generator. The path
    therefore depends on the order of queries, which is fixed for each sampler.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], top: float = SIGMA_MAX) -> None:
        self._seed = seed
        self._shape = shape
        self._points: dict[float, NDArray[np.float32]] = {0.0: np.zeros(shape, np.float32)}
        self._points[top] = self._normal(_PATH, 0) * math.sqrt(top)
        self._top = top

    def start(self) -> NDArray[np.float32]:
        """Return the initial unit noise, float32."""
        return self._normal(_START, 0)

    def __call__(self, sigma: float, sigma_next: float) -> NDArray[np.float32]:
        """Return the path's increment between two levels at unit variance. Raises ValueError outside [0, top]."""
        if sigma == sigma_next:
            raise ValueError("the noise of an empty interval is undefined")
        rise = self._at(sigma) - self._at(sigma_next)
        return rise * np.float32(math.copysign(1.0, sigma - sigma_next) / math.sqrt(abs(sigma - sigma_next)))

    def _at(self, sigma: float) -> NDArray[np.float32]:
        if not -1e-9 <= sigma <= self._top * (1 + 1e-9):
            raise ValueError(f"sigma {sigma} is outside [0, {self._top}]")
        sigma = min(max(sigma, 0.0), self._top)
        if sigma not in self._points:
            left = max(point for point in self._points if point < sigma)
            right = min(point for point in self._points if point > sigma)
            share = (sigma - left) / (right - left)
            middle = self._points[left] + (self._points[right] - self._points[left]) * np.float32(share)
            spread = math.sqrt((sigma - left) * (right - sigma) / (right - left))
            self._points[sigma] = middle + self._normal(_PATH, len(self._points)) * np.float32(spread)
        return self._points[sigma]

    def _normal(self, kind: int, node: int) -> NDArray[np.float32]:
        return np.random.default_rng([self._seed, kind, node]).standard_normal(self._shape, np.float32)
