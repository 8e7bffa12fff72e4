"""Tests of the noise schedules against reference values of k-diffusion."""

import math

import numpy as np
import pytest

from minitoolai.engines.sampling.schedules import (
    SCHEDULERS,
    SIGMA_MAX,
    SIGMA_MIN,
    fast_orders,
    model_calls,
    noise_table,
    sigmas,
)
from tests.engines.sampling.closed_form import CASES
from tests.engines.sampling.test_samplers import label

SUPPORTED = [case for case in CASES if "x" in case]


@pytest.mark.parametrize("case", [c for c in SUPPORTED if c["sigmas"]], ids=label)
def test_every_noise_level_agrees_with_k_diffusion_to_a_millionth(case):
    np.testing.assert_allclose(sigmas(case["scheduler"], case["steps"]), case["sigmas"], rtol=1e-6)


def test_an_unknown_scheduler_is_refused_by_name():
    with pytest.raises(ValueError, match="no scheduler 'UniPC'"):
        sigmas("UniPC", 4)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        sigmas("Euler", 0)


def test_trailing_applies_to_schedulers_without_levels_of_their_own():
    np.testing.assert_allclose(sigmas("Euler", 4, trailing=True), [14.6146, 4.0861, 1.6156, 0.6951, 0.0], atol=2e-3)
    assert sigmas("DPM2", 3, trailing=True)[:3] == sigmas("Euler", 4, trailing=True)[:3]
    for name in ("LMS Karras", "DPM2 a Karras", "DPM fast"):
        assert sigmas(name, 4, trailing=True) == sigmas(name, 4)
    np.testing.assert_allclose(sigmas("Heun", 1, trailing=True), sigmas("Heun", 1))


def test_the_noise_table_is_that_of_stable_diffusion() -> None:
    table = noise_table()
    assert len(table) == 1000
    assert list(table) == sorted(table)
    assert (table[0], table[-1]) == (SIGMA_MIN, SIGMA_MAX)
    assert (round(SIGMA_MIN, 4), round(SIGMA_MAX, 4)) == (0.0292, 14.6146)


@pytest.mark.parametrize("calls", range(1, 20))
def test_the_orders_of_dpm_fast_sum_to_the_calls_and_prefer_three(calls: int) -> None:
    orders = fast_orders(calls)
    assert sum(orders) == calls
    assert all(order in (1, 2, 3) for order in orders)
    assert orders == sorted(orders, reverse=True)
    assert orders.count(3) >= calls // 3 - 1


def test_two_call_methods_need_one_call_less_than_twice_the_steps() -> None:
    calls = {name: model_calls(name, 8) for name in SCHEDULERS}
    assert calls["Heun"] == calls["DPM++ SDE Karras"] == 15
    assert calls["Euler"] == calls["DPM fast"] == 8
    assert all(model_calls(name, 1) == 1 for name in SCHEDULERS)


def test_dpm_fast_has_levels_at_even_logarithms() -> None:
    levels = [math.log(level) for level in sigmas("DPM fast", 7)]
    steps = np.diff(levels)
    assert steps == pytest.approx(np.full(len(steps), steps[0]))
    assert math.exp(levels[-1]) == pytest.approx(SIGMA_MIN)
