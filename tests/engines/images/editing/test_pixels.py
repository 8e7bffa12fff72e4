"""Tests of the pixels of edits, and of edits by web UIs and by OpenAI-compatible servers."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import numpy as np
from msgspec.structs import replace
from PIL import Image

from minitoolai.engines.images.editing.pixels import filled, merged, square_around
from minitoolai.engines.protocols import ImageRequest
from minitoolai.http.bodies.multipart import MultipartParser, PartData, PartHead, boundary_of
from tests.engines.images.test_openai import generate, in_base64, upstream
from tests.engines.images.test_webui import ignore, web
from tests.support.pictures import encoded, picture
from tests.support.upstream import Exchange
from tests.support.webui import Webui

SOURCE = picture()
MASK = Image.new("L", SOURCE.size)
MASK.paste(255, (100, 80, 200, 180))
EDIT = ImageRequest(
    prompt="a red apple",
    task="edit",
    images=(encoded(SOURCE),),
    mask=encoded(MASK),
    width=320,
    height=256,
    seed=7,
    strength=0.6,
)


def pixels(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB")).astype(int)


def test_pixels_outside_the_mask_are_those_of_the_upload() -> None:
    drawn = pixels(merged(Image.new("RGB", SOURCE.size, "lime"), EDIT))
    outside = np.asarray(MASK) == 0
    assert (drawn[outside] == pixels(SOURCE)[outside]).all()
    assert (drawn[90:170, 110:190] == [0, 255, 0]).all()


def test_a_mask_of_one_pixel_counts() -> None:
    mask = Image.new("L", SOURCE.size)
    mask.putpixel((7, 9), 255)
    drawn = pixels(merged(Image.new("RGB", SOURCE.size, "lime"), replace(EDIT, mask=encoded(mask))))
    changed = (drawn != pixels(SOURCE)).any(axis=2)
    assert np.argwhere(changed).tolist() == [[9, 7]]


def test_a_hole_is_filled_from_its_surroundings() -> None:
    image = Image.linear_gradient("L").resize((90, 61)).convert("RGB")
    damaged = image.copy()
    mask = Image.new("L", image.size)
    for where in (damaged, mask):
        where.paste("white", (20, 15, 50, 45))
    difference = np.abs(pixels(filled(damaged, mask)) - pixels(image))
    assert difference.max() < 40
    assert difference[np.asarray(mask) == 0].max() == 0


def test_the_square_around_a_mask_is_no_larger_than_the_image() -> None:
    assert square_around(MASK) == (75, 55, 150)
    assert square_around(Image.new("L", (320, 256), 255)) == (0, -32, 320)


def test_a_web_ui_gets_the_image_and_the_mask() -> None:
    webui = Webui()

    async def test() -> None:
        async with web(webui) as engine:
            image = Image.open(io.BytesIO((await engine.generate("real", EDIT, ignore)).png))
        body = webui.asked[0]
        assert pixels(Image.open(io.BytesIO(base64.b64decode(body["init_images"][0])))).shape == (256, 320, 3)
        assert Image.open(io.BytesIO(base64.b64decode(body["mask"]))).getpixel((150, 130)) == 255
        assert (body["denoising_strength"], body["mask_blur"], body["inpainting_fill"]) == (0.6, 0, 1)
        assert body["override_settings"]["img2img_fix_steps"] is True
        outside = np.asarray(MASK) == 0
        assert (pixels(image)[outside] == pixels(SOURCE)[outside]).all()
        assert "Denoising strength: 0.6" in image.text["parameters"]  # type: ignore[attr-defined]

    asyncio.run(test())


def parts_of(exchange: Exchange) -> dict[str, bytes]:
    """Return the parts of a form by name."""
    parser = MultipartParser(boundary_of(exchange.headers["content-type"].encode()))
    parts: dict[str, bytes] = {}
    name = ""
    for found in parser.feed(exchange.raw):
        if isinstance(found, PartHead):
            name, parts[found.name] = found.name, b""
        elif isinstance(found, PartData):
            parts[name] += found.data
    assert parser.is_complete
    return parts


def test_an_upstream_gets_an_edit_in_the_form_of_openai() -> None:
    seen: list[Exchange] = []

    async def behave(exchange: Exchange) -> None:
        seen.append(exchange)
        await in_base64()(exchange)

    async def test() -> None:
        async with upstream(behave) as engine:
            assert engine.max_images == 16
            image = Image.open(io.BytesIO((await generate(engine, EDIT)).png))
            variation = replace(EDIT, task="variation", mask=None, prompt="")
            await generate(engine, variation)
            await generate(engine, replace(EDIT, images=EDIT.images * 2))
        assert [exchange.path for exchange in seen] == ["/v1/images/edits", "/v1/images/variations", "/v1/images/edits"]
        form, plain, several = (parts_of(exchange) for exchange in seen)
        assert (form["prompt"], form["model"], form["n"]) == (b"a red apple", b"gpt-image-1", b"1")
        assert "prompt" not in plain
        assert "image[]" in several
        mask = Image.open(io.BytesIO(form["mask"]))
        # OpenAI redraws what is transparent.
        assert (mask.getpixel((150, 130)), mask.getpixel((5, 5))) == ((0, 0, 0, 0), (0, 0, 0, 255))
        outside = np.asarray(MASK) == 0
        assert (pixels(image)[outside] == pixels(SOURCE)[outside]).all()

    asyncio.run(test())


def test_an_upstream_may_be_declared_unable_to_edit() -> None:
    async def test() -> None:
        async with upstream(in_base64(), edit_images=0) as engine:
            assert engine.max_images == 0

    asyncio.run(test())
