"""Samples are read in parts that are together the whole."""

from __future__ import annotations

import numpy as np
import pytest

from minitoolai.engines.speech.sound import WholeSound


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_parts_are_together_the_whole(size: int) -> None:
    samples = np.arange(10, dtype=np.int16)
    sound = WholeSound(samples)
    parts = []
    while len(part := sound.read(size)):
        assert len(part) <= size
        parts.append(part)
    assert (np.concatenate(parts) == samples).all()
    assert len(sound.read(size)) == 0
    assert sound.length == 10
