"""Tests of the deterministic image engine that other tests build on."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from minitoolai.core.errors import EngineRefused
from minitoolai.engines.images.fake import REFUSED, make_batch_engine
from minitoolai.engines.protocols import GeneratedImage, ImageRequest


def request(prompt: str = "a sun", **fields: int) -> ImageRequest:
    return ImageRequest(prompt=prompt, **{"width": 300, "height": 256, "steps": 3, "seed": 0x102030} | fields)


def test_an_image_has_the_colour_of_its_seed_the_requested_size_and_metadata() -> None:
    batch = make_batch_engine({"model": "fake-1", "delay_ms": 0}).open("any")
    progress: list[tuple[int, int]] = []
    slot_id = batch.add(request(), lambda step, steps: progress.append((step, steps)))
    assert [len(batch.step()), len(batch.step())] == [0, 0]
    (image,) = batch.step()
    assert isinstance(image, GeneratedImage)
    assert (image.slot_id, image.model, len(batch)) == (slot_id, "fake-1", 0)
    opened = Image.open(io.BytesIO(image.png))
    assert (opened.size, opened.getpixel((150, 128))) == ((300, 256), (0x10, 0x20, 0x30))
    assert "Model: fake-1" in opened.text["parameters"]  # type: ignore[attr-defined]
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_slots_are_numbered_and_can_be_removed() -> None:
    batch = make_batch_engine({"model": "fake-1", "delay_ms": 0}).open("any")
    first, second = batch.add(request(steps=1)), batch.add(request(steps=1))
    assert first != second
    batch.remove(first)
    batch.remove(12345)
    assert [image.slot_id for image in batch.step()] == [second]


def test_a_refused_prompt_and_a_missing_model_are_reported() -> None:
    engine = make_batch_engine({"model": "fake-1", "delay_ms": 0})
    with pytest.raises(EngineRefused):
        engine.open("any").add(request(REFUSED))
    assert engine.why_not_ready("any") is None
    assert "choose another model" in str(engine.why_not_ready("missing-model"))
    assert engine.batch_key("a", 64, 64) != engine.batch_key("b", 64, 64) != engine.batch_key("b", 64, 65)
