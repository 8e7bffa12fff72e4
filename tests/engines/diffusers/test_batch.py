"""Tests of the parts of batched denoising that need no torch; test_engine.py tests the rest with it."""

from __future__ import annotations

import pytest

from minitoolai.engines.diffusers.batch import DiffusersBatch, timestep_of
from minitoolai.engines.sampling.schedules import noise_table, sigmas


def test_noise_levels_map_to_training_timesteps() -> None:
    table = noise_table()
    for step in (0, 1, 500, 998, 999):
        assert timestep_of(table[step]) == pytest.approx(step, abs=1e-6)
    assert [timestep_of(s) for s in sigmas("Euler", 4)[:-1]] == pytest.approx([999, 666, 333, 0], abs=1e-6)
    assert timestep_of(table[-1] * 1.01) == 999
    assert timestep_of(table[0] * 0.9) == 0


def test_an_empty_batch_holds_no_weights_and_its_step_does_nothing() -> None:
    def load() -> object:
        raise AssertionError("nothing should be loaded")

    batch = DiffusersBatch(load, trailing=False)  # type: ignore[arg-type]
    batch.remove(1)
    assert (len(batch), batch.step(), batch.denoiser) == (0, [], None)
