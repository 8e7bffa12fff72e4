"""What drawing many requests in one batch gains on the embedded engine, and that it changes no picture."""

from __future__ import annotations

import io
import itertools
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from minitoolai.engines.images.sketch import LATENT, SketchEngine, draw
from minitoolai.engines.protocols import GeneratedImage, ImageRequest
from minitoolai.engines.sampling import SCHEDULERS

PROMPTS = ("a red apple", "a blue fish, flat style", "a sun", "cat face", "green tree", "a house", "a moon", "a car")
#: Different steps, samplers, guidance and prompts: nothing that a batch of one kind could share.
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
    canvas = engine.open()
    tickets = [canvas.add(request) for request in MIXED]
    drawn: dict[int, GeneratedImage] = {}
    while len(canvas):
        drawn.update((image.ticket, image) for image in canvas.step())
    return [drawn[ticket] for ticket in tickets]


def pixels(image: GeneratedImage) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(image.png))).astype(np.int16)


def test_32_mixed_requests_come_out_as_they_do_one_at_a_time(engine: SketchEngine) -> None:
    apart = [draw(engine, request) for request in MIXED]
    for one, other in zip(apart, together(engine), strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 2


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_model_call_of_many_rows_costs_less_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Processor time on one thread, the best of several: whatever else the machine does changes little of it.

    What a batch gains is this and no more: on a processor the model's arithmetic is the cost, not its weights' way
    through memory, and decoding costs every picture the same.
    """
    engine = SketchEngine(threads=1)
    engine.start()
    assert engine._parts is not None
    denoise, caption = engine._parts.denoise, engine._parts.words.embed("a cat")
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
        print("\nprocessor ms a row, by rows in a call:", {rows: round(cost, 2) for rows, cost in costs.items()})
    assert min(costs[8], costs[16]) < costs[1] / 1.2
