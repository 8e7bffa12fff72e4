"""Tests of the operator's upscalers: tiles without seams, factors, types, and the fallback after every fault."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minitoolai.engines.images.upscaling import MARGIN, TILE, Upscaler, UpscaleTask, upscale
from tests.support.pictures import encoded
from tests.support.tiny_onnx import FLOAT16, UINT8, doubling, node, save_model


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def doubled(image: Image.Image) -> Any:
    return np.asarray(image).astype(int).repeat(2, 0).repeat(2, 1)


def enlarge(upscaler: Upscaler, png: bytes, model: str = "m") -> tuple[str, bytes] | None:
    return asyncio.run(upscaler.enlarge(model, png))


@pytest.mark.parametrize("size", [(64, 48), (TILE, TILE), (TILE + 1, 2 * TILE + 5), (7, 600)])
def test_every_pixel_of_a_tiled_image_is_enlarged(tmp_path: Path, size: tuple[int, int]) -> None:
    image = noise(*size)
    path = save_model(tmp_path / "two.onnx", doubling())
    found = enlarge(Upscaler({"m": path}), encoded(image))
    assert found is not None
    assert found[0] == "two"
    assert np.array_equal(pixels(found[1]), doubled(image))


def test_tiles_have_no_seams(tmp_path: Path) -> None:
    image = noise(TILE + 40, TILE + 40)
    path = save_model(tmp_path / "smooth.onnx", doubling(smooth=True))
    reply = upscale(UpscaleTask(str(path), encoded(image)))
    padded = np.pad(np.asarray(image).astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows, columns = image.height, image.width
    mean = sum(padded[a : a + rows, b : b + columns] for a in range(3) for b in range(3)) / 9
    assert np.abs(pixels(reply.png) - mean.repeat(2, 0).repeat(2, 1)).max() <= 0.51


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 3, 64, 64), 1), ((1, 3, "h", "w"), FLOAT16), (("n", 3, 2 * MARGIN + 1, 2 * MARGIN + 1), 1)]
)
def test_fixed_sizes_and_half_precision_are_taken(tmp_path: Path, shape: Any, kind: int) -> None:
    image = noise(70, 40) if MARGIN * 2 + 1 not in shape else noise(5, 3)
    path = save_model(tmp_path / "two.onnx", doubling(), shape=shape, kind=kind)
    reply = upscale(UpscaleTask(str(path), encoded(image)))
    assert reply.error == ""
    assert np.abs(pixels(reply.png) - doubled(image)).max() <= 1


FAULTS = {
    "no upscaler": ([node("GlobalAveragePool", ["x"], "y")], {}, "which is no enlarged image"),
    "one channel": ([node("ReduceMean", ["x"], "y", axes=[1], keepdims=1)], {}, "which is no enlarged image"),
    "wide": ([node("Concat", ["x", "x"], "y", axis=3)], {}, "which is no enlarged image"),
    "not finite": ([node("Neg", ["x"], "n"), node("Log", ["n"], "y")], {}, "not finite"),
    "bytes": ([node("Identity", ["x"], "y")], {"kind": UINT8}, "it must be one image, float"),
    "flat": ([node("Identity", ["x"], "y")], {"shape": (1, 3)}, "it must be one image, float"),
    "oblong": ([node("Identity", ["x"], "y")], {"shape": (1, 3, 64, 32)}, "must be square"),
    "small": ([node("Identity", ["x"], "y")], {"shape": (1, 3, 32, 32)}, "must be square and over 32"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_is_no_upscaler_says_why(tmp_path: Path, fault: str) -> None:
    nodes, options, words = FAULTS[fault]
    path = save_model(tmp_path / "odd.onnx", nodes, **options)
    reply = upscale(UpscaleTask(str(path), encoded(noise(40, 40))))
    assert words in reply.error
    assert reply.png == b""


def test_after_a_fault_there_is_no_result_and_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = save_model(tmp_path / "good.onnx", doubling())
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(good.read_bytes()[:-20])
    upscaler = Upscaler({"cut": cut, "gone": tmp_path / "gone.onnx", "good": good})
    png = encoded(noise(40, 40))
    assert enlarge(upscaler, png, "other") is None
    assert caplog.text == ""
    for model in ("cut", "gone"):
        caplog.clear()
        assert enlarge(upscaler, png, model) is None
        assert f"upscaler {model}.onnx of {model} failed, falling back to Lanczos: " in caplog.text
    assert enlarge(upscaler, png, "good") is not None
    (fault,) = upscaler.faults()
    assert f"upscaler of gone cannot be used, images are enlarged by Lanczos's filter: no file {tmp_path}" in fault


def test_a_model_that_takes_too_long_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_model(tmp_path / "two.onnx", doubling())
    assert enlarge(Upscaler({"m": path}, timeout_s=0.02), encoded(noise(40, 40))) is None
    assert "it took more than 0.02 s" in caplog.text


def test_a_child_that_dies_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_model(tmp_path / "two.onnx", doubling())
    assert enlarge(Upscaler({"m": path}, command=["/bin/false"]), encoded(noise(40, 40))) is None
    assert "its process ended with status 1" in caplog.text
