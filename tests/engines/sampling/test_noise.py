"""Tests of seeded noise: it depends on the seed only, and it is Brownian."""

import numpy as np
import pytest

from minitoolai.engines.sampling.noise import LazySeededNoise, SeededNoise
from minitoolai.engines.sampling.schedules import SIGMA_MAX, SIGMA_MIN

SHAPE = (4, 32, 32)


def test_values_do_not_depend_on_the_order_of_queries():
    queries = [(14.0, 3.0), (3.0, 0.5), (14.0, 8.0), (0.5, 0.03)]
    forwards, backwards = SeededNoise(7, SHAPE), SeededNoise(7, SHAPE)
    answers = [forwards(*query) for query in queries]
    for query, answer in zip(reversed(queries), reversed(answers), strict=True):
        np.testing.assert_array_equal(backwards(*query), answer)


EITHER = pytest.mark.parametrize("kind", [SeededNoise, LazySeededNoise])


@EITHER
def test_increments_add_up_along_the_path(kind):
    noise = kind(1, SHAPE)
    whole, first, second = noise(9.0, 1.0), noise(9.0, 4.0), noise(4.0, 1.0)
    np.testing.assert_allclose(whole * np.sqrt(8.0), first * np.sqrt(5.0) + second * np.sqrt(3.0), atol=1e-5)


@pytest.mark.parametrize(("high", "low"), [(SIGMA_MAX, SIGMA_MIN), (0.93, 0.029), (0.05, 0.045), (14.6, 0.0)])
@EITHER
def test_every_increment_is_unit_normal(high, low, kind):
    drawn = np.stack([kind(seed, SHAPE)(high, low) for seed in range(8)])
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1) < 0.03


@EITHER
def test_disjoint_increments_seeds_and_the_initial_noise_are_independent(kind):
    noise = kind(3, SHAPE)
    several = [
        noise(10.0, 5.0),
        noise(5.0, 1.0),
        noise(1.0, 0.03),
        noise.start(),
        kind(4, SHAPE)(10.0, 5.0),
    ]
    related = np.corrcoef([x.ravel() for x in several]) - np.eye(len(several))
    assert np.abs(related).max() < 0.06


@EITHER
def test_a_level_outside_the_path_is_refused(kind):
    noise = kind(0, SHAPE)
    with pytest.raises(ValueError, match="is outside"):
        noise(SIGMA_MAX * 1.01, 1.0)
    with pytest.raises(ValueError, match="empty interval"):
        noise(1.0, 1.0)
    assert np.isfinite(noise(SIGMA_MAX * (1 + 1e-12), 0.0)).all()


def test_large_seeds_are_distinct():
    assert not np.array_equal(SeededNoise(2**63, SHAPE).start(), SeededNoise(0, SHAPE).start())


def test_overlapping_increments_of_a_lazy_path_agree_as_the_sde_samplers_need():
    # DPM++ SDE queries both from the same level; they share the part to the middle.
    related = []
    for seed in range(6):
        noise = LazySeededNoise(seed, SHAPE)
        middle, whole = noise(9.0, 3.0), noise(9.0, 1.0)
        related.append(np.corrcoef(middle.ravel(), whole.ravel())[0, 1])
    assert np.mean(related) == pytest.approx(np.sqrt(6.0 / 8.0), abs=0.02)


def test_a_lazy_path_is_the_same_for_the_same_queries():
    queries = [(14.0, 3.0), (14.0, 8.0), (3.0, 0.5)]
    first, second = LazySeededNoise(7, SHAPE), LazySeededNoise(7, SHAPE)
    for query in queries:
        np.testing.assert_array_equal(first(*query), second(*query))
    assert not np.array_equal(LazySeededNoise(8, SHAPE)(14.0, 3.0), LazySeededNoise(7, SHAPE)(14.0, 3.0))
