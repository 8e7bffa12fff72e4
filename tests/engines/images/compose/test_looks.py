"""Each model has a look of its own."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from minitoolai.engines.images.compose.looks import LOOKS
from minitoolai.engines.protocols import ImageRequest

SIZE = {"width": 256, "height": 256}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("prompt", ["a cat", pytest.param("a red car on the beach", marks=pytest.mark.acceptance)])
def test_every_pair_of_models_draws_another_picture(engine, prompt):
    batch = engine.open()
    slots = {batch.add(ImageRequest(prompt=prompt, seed=5, model=name, **SIZE)): name for name in LOOKS}
    drawn = {}
    while len(batch):
        drawn.update((slots[image.slot_id], pixels(image.png)) for image in batch.step())
    assert len(drawn) == 15
    gaps = {(a, b): np.abs(drawn[a] - drawn[b]).mean() for a, b in combinations(drawn, 2)}
    assert min(gaps.values()) >= 8, min(gaps, key=gaps.get)
