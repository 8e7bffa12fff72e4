"""Batching many requests of the embedded model saves CPU time and changes no image."""

from __future__ import annotations

import asyncio
import io
import itertools
import re
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from minitoolai.core.marks import MarkCodec
from minitoolai.core.signing import SecretKeys
from minitoolai.engines.images.process import EngineProcess
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


#: `test_sketch.py` compares seven.
@pytest.mark.acceptance
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


@pytest.mark.acceptance
@pytest.mark.timing
def test_large_images_of_many_things_take_less_than_400_mb() -> None:
    """Measure the peak of the child process, as the operating system counts it."""
    watermark = MarkCodec(SecretKeys(b"k" * 32)).watermark(1, 1_790_000_000_000)
    prompt = "a cat, a dog, a blue bird, a house, a tree and a car in the forest"

    async def peak_mb() -> float:
        engine = EngineProcess("sketch", "minitoolai.engines.images.sketch", {"threads": 0}, max_concurrency=4)
        await engine.start()
        try:
            for side, count in ((1024, 1), (1344, 4)):
                requests = [
                    ImageRequest(
                        prompt=prompt, model="dreamshaper", seed=i, width=side, height=side, watermark=watermark
                    )
                    for i in range(count)
                ]
                await asyncio.gather(*(engine.generate("dreamshaper", one, lambda *_: None) for one in requests))
            status = Path(f"/proc/{engine.pid}/status").read_text()
        finally:
            await engine.stop()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1000

    assert asyncio.run(peak_mb()) < 400
