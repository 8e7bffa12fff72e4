"""Backgrounds fill an image of any size, differ from each other, and depend on their seed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from minitoolai.engines.images.compose.backgrounds import BACKGROUNDS, paint_background


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize(("width", "height"), [(320, 128), (128, 320)])
def test_a_background_fills_any_size_and_depends_on_its_seed(name, width, height):
    first, ground = paint_background(name, "", width, height, 1)
    again, _ = paint_background(name, "", width, height, 1)
    night, _ = paint_background(name, "night", width, height, 1)
    assert first.shape == (height, width, 3)
    assert (first == again).all()
    assert 0.5 < ground.feet < 1
    # No margin of one colour.
    assert all(side.std() > 0.5 for side in (first[:, 0], first[:, -1]))
    if name not in ("night", "space"):
        assert night.mean() < first.mean()


def test_at_least_ten_backgrounds_differ():
    painted = [paint_background(name, "", 256, 256, 1)[0] for name in BACKGROUNDS]
    assert len(painted) >= 10
    assert min(np.abs(a - b).mean() for a, b in combinations(painted, 2)) > 3
