"""Marked images end to end: every image of a server carries a manifest and a watermark, unless marking is off."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from minitoolai.core.clock import parse_generation_name
from minitoolai.core.marks import MarkCodec
from minitoolai.core.signing import SecretKeys
from minitoolai.engines.images.codec import encode_square
from minitoolai.engines.marks.image import detect
from minitoolai.engines.protocols import ImageRequest
from minitoolai.images.provenance.manifest_reader import read_manifest
from minitoolai.images.provenance.marks import build_marks
from minitoolai.paths import load_secret_keys
from minitoolai.settings import Settings
from tests.support.server import ServerProcess
from tests.support.studio_http import SKETCH, job, wait


@pytest.mark.parametrize(("form", "media"), [(None, "png"), ("png", "png"), ("jpeg", "jpeg"), ("webp", "webp")])
def test_an_image_over_http_says_when_and_by_what_it_was_made(
    sketch_server: ServerProcess, form: str | None, media: str
) -> None:
    account = sketch_server.account()
    one = job(account, model="realvision", prompt="a red apple", width=256, height=256, output_format=form)
    state = wait(account, one)
    response = requests.get(state["image_url"], timeout=30)
    assert response.headers["content-type"] == f"image/{media}"
    content = response.content
    report = read_manifest(content)
    assert report is not None
    assert (report.state, report.model, report.is_generated) == ("valid", state["model"], True)
    assert parse_generation_name(report.generation) == one["jobid"]
    image = Image.open(io.BytesIO(content))
    assert image.format == media.upper()
    if media == "png":
        assert image.text["parameters"].startswith("a red apple")  # type: ignore[attr-defined]
    else:
        assert "a red apple".encode("utf-16-be") in content
    codec = MarkCodec(load_secret_keys(sketch_server.settings))
    (mark,) = detect(np.asarray(image.convert("L"), np.float32), codec.signal_keys())
    assert mark.code is not None
    assert mark.key is not None
    read = codec.read(mark.code, mark.key)
    assert read is not None
    assert read.is_of(one["jobid"])


def test_without_a_watermark_the_same_request_gives_the_same_bytes() -> None:
    square = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    request = ImageRequest(prompt="a cat", width=256, height=256, seed=7)
    assert encode_square(square, request, "m") == encode_square(square, request, "m")


def test_marking_off_is_told_in_the_log_and_leaves_images_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert build_marks(Settings(data_dir=tmp_path, marks=False), SecretKeys(b"k" * 32)) is None
    assert "Article 50" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_with_marking_off_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=SKETCH, env={"MINITOOLAI_MARKS": "off"}) as server:
        account = server.account()
        jobs = [job(account, model="realvision", prompt="a cat", width=256, height=256, seed=5) for _ in range(2)]
        one, two = (requests.get(wait(account, each)["image_url"], timeout=30).content for each in jobs)
    assert one == two
    assert read_manifest(one) is None
