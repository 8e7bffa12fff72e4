"""The eighteen samplers for any array library: noise schedules, and the steps between their levels.

Nothing here imports numpy or torch: coefficients are Python floats, so any array type with `+`, `-` and `*` works.
"""

from minitoolai.engines.sampling.names import nearest_schedulers, scheduler_named
from minitoolai.engines.sampling.samplers import Trajectory, sample, trajectory
from minitoolai.engines.sampling.schedules import SCHEDULERS, SIGMA_MAX, SIGMA_MIN, model_calls, sigmas

__all__ = [
    "SCHEDULERS",
    "SIGMA_MAX",
    "SIGMA_MIN",
    "Trajectory",
    "model_calls",
    "nearest_schedulers",
    "sample",
    "scheduler_named",
    "sigmas",
    "trajectory",
]
