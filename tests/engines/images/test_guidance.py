"""Tests of guidance on the embedded model: no blots, with any scheduler, in few steps and at high scales."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minitoolai.engines.images.guidance import MOST_NOISE, effective_scale, guided, shown
from minitoolai.engines.images.sketch import SketchEngine
from minitoolai.engines.protocols import GeneratedImage, ImageRequest
from minitoolai.engines.sampling import SCHEDULERS

#: Things that are drawn on white.
PROMPTS = (
    "red apple, 3d style",
    "happy kitty",
    "a rocket, noto style",
    "slice of pizza, flat style",
    "a guitar, 3d style",
)
#: Mean distance from white around the things, in levels of 255. Images with blots to be seen had 1.3 and more.
MOST_DIRT = 0.8
#: Distance from a thing in pixels up to which its edge may differ.
_EDGE = 8


@pytest.fixture(scope="module")
def engine() -> Iterator[SketchEngine]:
    engine = SketchEngine(threads=2)
    engine.start()
    yield engine
    engine.stop()


def draw(engine: SketchEngine, schedulers: tuple[str, ...], steps: int, scale: float) -> dict[str, list[Any]]:
    """Return the pictures of all prompts by each scheduler, with the same seeds."""
    batch, asked = engine.open(), {}
    for name in schedulers:
        for seed, prompt in enumerate(PROMPTS):
            request = ImageRequest(
                prompt=prompt, scheduler=name, steps=steps, cfg_scale=scale, seed=seed, width=256, height=256
            )
            asked[batch.add(request)] = name
    drawn: dict[int, Any] = {}
    while len(batch):
        for image in batch.step():
            assert isinstance(image, GeneratedImage)
            drawn[image.slot_id] = np.asarray(Image.open(io.BytesIO(image.png)).convert("RGB")).astype(int)
    return {name: [drawn[slot] for slot in sorted(asked) if asked[slot] == name] for name in schedulers}


def paper_of(picture: Any) -> Any:
    """Return where a clean picture is white, and far from everything that is not."""
    white = picture.min(axis=2) >= 250
    far = white.copy()
    for axis in (0, 1):
        for shift in (-_EDGE, -_EDGE // 2, _EDGE // 2, _EDGE):
            far &= np.roll(white, shift, axis)
    return far


@pytest.fixture(scope="module")
def papers(engine: SketchEngine) -> list[Any]:
    """Return the paper of a clean picture of each prompt."""
    found = [paper_of(picture) for picture in draw(engine, ("Euler",), 8, 2.0)["Euler"]]
    assert all(0.2 < paper.mean() < 0.9 for paper in found)
    return found


#: 90 images for each case: a minute and more of CPU for all.
@pytest.mark.acceptance
@pytest.mark.parametrize(("steps", "scale"), [(4, 2.0), (4, 7.0), (8, 2.0), (8, 7.0)])
def test_no_scheduler_leaves_blots_around_a_thing(
    engine: SketchEngine, papers: list[Any], steps: int, scale: float
) -> None:
    drawn = draw(engine, SCHEDULERS, steps, scale)
    dirt = {
        name: float(np.mean([(255 - p.min(axis=2))[paper].mean() for p, paper in zip(pictures, papers, strict=True)]))
        for name, pictures in drawn.items()
    }
    assert {name: round(value, 2) for name, value in dirt.items() if value > MOST_DIRT} == {}


def test_the_scale_still_counts_for_every_scheduler() -> None:
    for name in SCHEDULERS:
        assert 1 < effective_scale(2, name) <= effective_scale(7, name) <= 2.5


def test_guidance_saturates_and_keeps_the_range_of_the_prediction() -> None:
    assert effective_scale(1) == 1
    assert effective_scale(2) < effective_scale(5) < effective_scale(7) <= 2.5
    random = np.random.default_rng(1)
    positive, negative = random.standard_normal((2, 4, 16, 16))
    guess = guided(positive, negative, 7.0, 5.0)
    assert np.abs(guess).max() <= np.abs(positive).max() * 1.25
    assert (guided(positive, negative, 7.0, 0.1) == positive).all()
    assert np.isclose((shown(positive * 9, positive * 0, 1.0) ** 2).mean(), MOST_NOISE**2)
