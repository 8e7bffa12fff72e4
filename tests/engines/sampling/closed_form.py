"""A closed-form denoiser (a mixture of Gaussians) and deterministic noise, with which the reference was computed."""

import json
import math
from pathlib import Path

import numpy as np

ORACLE = json.loads((Path(__file__).parent / "samplers.json").read_text())
CASES = ORACLE["cases"]
START = np.array(ORACLE["unit_start"])


def denoise(x, sigma):
    """Return the mean of x0 given x, for x of shape (6,) and float64."""
    means, weights = np.array(ORACLE["means"]), np.array(ORACLE["weights"])
    own, level = np.array(ORACLE["stds"]) ** 2, sigma**2
    log_odds = np.log(weights) - ((x - means) ** 2).sum(1) / (2 * (own + level)) - 3 * np.log(own + level)
    odds = np.exp(log_odds - log_odds.max())
    guesses = (own[:, None] * x + level * means) / (own + level)[:, None]
    return (odds / odds.sum()) @ guesses


def noise(sigma, sigma_next):
    return np.array(
        [
            math.sqrt(2) * math.sin(3.1 * k * math.log(sigma) + 1.7 * k * math.log(sigma_next + 0.01))
            for k in range(1, 7)
        ]
    )


class Counted:
    """A denoiser that records the levels of its calls."""

    def __init__(self, inner=denoise):
        self.inner = inner
        self.levels = []

    def __call__(self, x, sigma):
        self.levels.append(sigma)
        return self.inner(x, sigma)
