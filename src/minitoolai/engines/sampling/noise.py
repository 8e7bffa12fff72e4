"""Noise for one picture: everything random about it follows from its seed, whatever else is drawn beside it.

A picture's noise is a Brownian path over sigma, so overlapping intervals agree with each other as the SDE
samplers need, while disjoint ones are independent, which is all the ancestral samplers ask.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from minitoolai.engines.sampling.schedules import SIGMA_MAX

_START, _PATH = 0, 1


class PictureNoise:
    """The start and the Brownian path of one seed; float64 arrays of `shape`.

    The path is a tree of midpoints over [0, top] (Gaines and Lyons 1997): each node's noise comes from a
    generator seeded with the node's own number, so no answer depends on the queries before it.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], top: float = SIGMA_MAX, depth: int = 24) -> None:
        self._seed = seed
        self._shape = shape
        self._top = top
        self._depth = depth

    def start(self) -> NDArray[np.float64]:
        """Unit noise to begin with."""
        return self._normal(_START, 0)

    def __call__(self, sigma: float, sigma_next: float) -> NDArray[np.float64]:
        """The path's increment between two levels, scaled to unit variance. ValueError outside [0, top]."""
        if sigma == sigma_next:
            raise ValueError("an interval without length has no noise")
        rise = self._path(sigma) - self._path(sigma_next)
        return rise / math.sqrt(abs(sigma - sigma_next)) * math.copysign(1.0, sigma - sigma_next)

    def _path(self, sigma: float) -> NDArray[np.float64]:
        """W(sigma), W(0) being 0: halve [0, top] towards sigma, then go straight in the last 2^-24."""
        if not -1e-9 <= sigma <= self._top * (1 + 1e-9):
            raise ValueError(f"sigma {sigma} lies outside 0 to {self._top}")
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


class GrownNoise:
    """The start and the Brownian path of one seed, for large pictures: a point costs one array instead of 24.

    The path is grown where it is asked for: each new point is drawn between its neighbours as they are (a Brownian
    bridge), by a generator of its own. So it depends on the order of the queries, which a sampler fixes.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], top: float = SIGMA_MAX) -> None:
        self._seed = seed
        self._shape = shape
        self._points: dict[float, NDArray[np.float32]] = {0.0: np.zeros(shape, np.float32)}
        self._points[top] = self._normal(_PATH, 0) * math.sqrt(top)
        self._top = top

    def start(self) -> NDArray[np.float32]:
        """Unit noise to begin with, float32."""
        return self._normal(_START, 0)

    def __call__(self, sigma: float, sigma_next: float) -> NDArray[np.float32]:
        """The path's increment between two levels, scaled to unit variance. ValueError outside [0, top]."""
        if sigma == sigma_next:
            raise ValueError("an interval without length has no noise")
        rise = self._at(sigma) - self._at(sigma_next)
        return rise * np.float32(math.copysign(1.0, sigma - sigma_next) / math.sqrt(abs(sigma - sigma_next)))

    def _at(self, sigma: float) -> NDArray[np.float32]:
        if not -1e-9 <= sigma <= self._top * (1 + 1e-9):
            raise ValueError(f"sigma {sigma} lies outside 0 to {self._top}")
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
