"""The eighteen samplers, over any array library: which noise levels are visited, and how to step between.

Nothing here imports numpy or torch for the arrays themselves: coefficients are Python floats, so whatever has
`+`, `-` and `*` can be sampled.
"""

from minitoolai.engines.sampling.samplers import Trajectory, sample, trajectory
from minitoolai.engines.sampling.schedules import SCHEDULERS, SIGMA_MAX, SIGMA_MIN, model_calls, sigmas

__all__ = [
    "SCHEDULERS",
    "SIGMA_MAX",
    "SIGMA_MIN",
    "Trajectory",
    "model_calls",
    "sample",
    "sigmas",
    "trajectory",
]
