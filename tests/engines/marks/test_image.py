"""The watermark of images: what it survives, how faint it is, and what has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minitoolai.core.marks import MarkCodec
from minitoolai.core.signing import SecretKeys
from minitoolai.engines.marks.image import detect, embed
from tests.support.marks import ATTACKS, CODEC, CREATED_MS, REQUIRED, drawing, luminance, photograph, psnr

MARK = CODEC.watermark(4711, CREATED_MS)
KEYS = CODEC.signal_keys()


@pytest.mark.parametrize("attack", REQUIRED)
@pytest.mark.parametrize("make", [photograph, drawing])
def test_a_mark_survives(make: Callable[[int, int], Any], attack: str) -> None:
    marked = Image.fromarray(embed(make(3, 512), MARK))
    found = detect(luminance(ATTACKS[attack](marked)), KEYS)
    assert [mark.code for mark in found][:1] == [MARK.code]


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize("make", [photograph, drawing])
def test_a_mark_is_faint_and_the_same_for_the_same_generation(make: Callable[[int, int], Any], size: int) -> None:
    pixels = make(1, size)
    before = pixels.copy()
    marked = embed(pixels, MARK)
    assert psnr(marked, pixels) >= 38
    assert (marked == embed(pixels, MARK)).all()
    assert (pixels == before).all()
    assert not (marked == embed(pixels, CODEC.watermark(4712, CREATED_MS + 5000))).all()


@pytest.mark.parametrize(("width", "height"), [(257, 1344), (400, 300), (1, 1)])
def test_any_size_can_be_marked(width: int, height: int) -> None:
    assert embed(np.full((height, width, 3), 255, np.uint8), MARK).shape == (height, width, 3)


@pytest.mark.parametrize("make", [photograph, drawing])
def test_an_unmarked_image_has_no_mark(make: Callable[[int, int], Any]) -> None:
    assert detect(luminance(Image.fromarray(make(7, 256))), KEYS) == []


@pytest.mark.parametrize("value", [0, 255])
def test_a_plain_area_is_marked_and_an_unmarked_one_is_not(value: int) -> None:
    plain = np.full((256, 256, 3), value, np.uint8)
    assert detect(luminance(Image.fromarray(plain)), KEYS) == []
    assert detect(luminance(Image.fromarray(embed(plain, MARK))), KEYS)[0].code == MARK.code


def test_the_mark_of_another_operator_is_seen_but_not_read() -> None:
    other = MarkCodec(SecretKeys(b"other" * 7)).watermark(1, CREATED_MS)
    found = detect(luminance(Image.fromarray(embed(photograph(2, 256), other))), KEYS)
    assert [(mark.key, mark.code) for mark in found] == [(None, None)]


def test_both_marks_of_an_image_that_was_edited_are_read() -> None:
    other = CODEC.watermark(99, CREATED_MS + 86_400_000)
    twice = embed(embed(photograph(4, 512), MARK), other)
    assert {mark.code for mark in detect(luminance(Image.fromarray(twice)), KEYS)} == {MARK.code, other.code}
