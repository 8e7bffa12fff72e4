"""Tests of the eighteen samplers against reference values of k-diffusion."""

import array_api_strict
import numpy as np
import pytest

from minitoolai.engines.sampling import SCHEDULERS, model_calls, sample, sigmas, trajectory
from minitoolai.engines.sampling.noise import SeededNoise
from tests.engines.sampling.closed_form import CASES, START, Counted, denoise, noise

SUPPORTED = [case for case in CASES if "x" in case]


def label(case):
    return f"{case['scheduler']}, {case['steps']} steps"


def test_the_reference_has_every_scheduler_at_four_step_counts():
    assert sorted({(c["scheduler"], c["steps"]) for c in CASES}) == sorted(
        (name, steps) for name in SCHEDULERS for steps in (1, 2, 4, 7)
    )


@pytest.mark.parametrize("case", SUPPORTED, ids=label)
def test_every_result_agrees_with_k_diffusion_to_a_millionth(case):
    asked = Counted()
    x = sample(case["scheduler"], case["steps"], START, asked, noise)
    np.testing.assert_allclose(x, case["x"], rtol=1e-6, atol=1e-9)
    assert len(asked.levels) == case["model_calls"] == model_calls(case["scheduler"], case["steps"])


@pytest.mark.parametrize("name", ["DPM++ 2M SDE", "DPM++ 2M SDE Karras"])
def test_a_single_step_that_k_diffusion_cannot_take_is_a_step_of_euler(name):
    assert [c["error"] for c in CASES if c["scheduler"] == name and c["steps"] == 1] != []
    np.testing.assert_allclose(
        sample(name, 1, START, denoise, noise), sample("Euler", 1, START, denoise, noise), rtol=1e-12
    )


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_number_of_calls_is_as_documented_and_levels_stay_in_range(name, steps):
    asked, levels = Counted(), sigmas(name, steps)
    sample(name, steps, START, asked, noise)
    assert len(asked.levels) == model_calls(name, steps)
    assert all(0.029 < level < 14.615 for level in asked.levels)
    assert levels == sorted(levels, reverse=True)
    assert len(levels) == steps + 1 or name == "DPM fast"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_another_array_library_gives_the_same_result(name):
    strict = array_api_strict

    def foreign_denoise(x, sigma):
        return strict.asarray(denoise(np.asarray(x), sigma))

    def foreign_noise(sigma, sigma_next):
        return strict.asarray(noise(sigma, sigma_next))

    result = sample(name, 5, strict.asarray(START), foreign_denoise, foreign_noise)
    np.testing.assert_allclose(np.asarray(result), sample(name, 5, START, denoise, noise), rtol=1e-12)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_single_precision_stays_within_a_ten_thousandth(name):
    def single(x, sigma):
        return denoise(x.astype(np.float64), sigma).astype(np.float32)

    def single_noise(sigma, sigma_next):
        return noise(sigma, sigma_next).astype(np.float32)

    result = sample(name, 8, START.astype(np.float32), single, single_noise)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, sample(name, 8, START, denoise, noise), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_image_with_a_perfect_denoiser_is_recovered(name):
    """With the true x0 known at each level, no noise may remain at the end."""
    truth = np.linspace(-1, 1, 64).reshape(4, 4, 4)
    path = SeededNoise(5, truth.shape)
    result = sample(name, 8, path.start(), lambda x, sigma: truth, path)
    left = sigmas(name, 8)[-1]
    np.testing.assert_allclose(result, truth, atol=5 * left + 1e-12)


def test_trajectories_can_be_interleaved():
    """Engines rely on this: two images advanced alternately equal those generated one after the other."""
    paths = {name: trajectory(name, 4, START, noise) for name in ("Heun", "DPM++ SDE")}
    asked = {name: next(path) for name, path in paths.items()}
    result = {}
    while asked:
        for name, (x, sigma) in list(asked.items()):
            try:
                asked[name] = paths[name].send(denoise(x, sigma))
            except StopIteration as end:
                result[name] = end.value
                del asked[name]
    for name, x in result.items():
        np.testing.assert_array_equal(x, sample(name, 4, START, denoise, noise))
