"""Batching many requests of the embedded model saves CPU time and changes no image."""

from __future__ import annotations

import io
import itertools
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from minitoolai.engines.images.sketch import LATENT, SketchEngine, generate
from minitoolai.engines.protocols import GeneratedImage, ImageRequest
from minitoolai.engines.sampling import SCHEDULERS

PROMPTS = ("a red apple", "a blue fish, flat style", "a sun", "cat face", "green tree", "a house", "a moon", "a car")
#: Different steps, samplers, guidance and prompts.
MIXED = [
    ImageRequest(
        prompt=prompt,
        seed=number,
        steps=1 + number % 8,
        scheduler=scheduler,
        cfg_scale=1 + number % 3,
        width=256,
        height=256,
    )
    for number, (prompt, scheduler) in enumerate(
        itertools.islice(zip(itertools.cycle(PROMPTS), itertools.cycle(sorted(SCHEDULERS)), strict=False), 32)
    )
]


@pytest.fixture(scope="module")
def engine() -> SketchEngine:
    loaded = SketchEngine()
    loaded.start()
    return loaded


def together(engine: SketchEngine) -> list[GeneratedImage]:
    batch = engine.open()
    slot_ids = [batch.add(request) for request in MIXED]
    images: dict[int, GeneratedImage] = {}
    while len(batch):
        images.update((image.slot_id, image) for image in batch.step())
    return [images[slot_id] for slot_id in slot_ids]


def pixels(image: GeneratedImage) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(image.png))).astype(np.int16)


def test_32_mixed_requests_give_the_same_images_as_one_at_a_time(engine: SketchEngine) -> None:
    apart = [generate(engine, request) for request in MIXED]
    for one, other in zip(apart, together(engine), strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 2


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_model_call_with_many_rows_costs_less_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Measure the CPU time of one thread, the best of several runs, which hardly depends on the load of the machine.

    The gain is limited: on a CPU the arithmetic dominates, not the memory traffic of the weights, and decoding costs
    the same for each image.
    """
    engine = SketchEngine(threads=1)
    engine.start()
    assert engine._model is not None
    denoise, caption = engine._model.denoise, engine._model.captions.embed("a cat")
    noise = np.random.default_rng(1).standard_normal((16, *LATENT))

    def cost_ms(rows: int) -> float:
        best_s = float("inf")
        for _ in range(8):
            started_s = time.process_time()
            denoise([(x, 1.0, caption) for x in noise[:rows]])
            best_s = min(best_s, time.process_time() - started_s)
        return best_s * 1000 / rows

    costs = {rows: cost_ms(rows) for rows in (1, 2, 8, 16)}
    with capsys.disabled():
        print("\nCPU ms per row, by rows per call:", {rows: round(cost, 2) for rows, cost in costs.items()})
    assert min(costs[8], costs[16]) < costs[1] / 1.2
