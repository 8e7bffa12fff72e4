"""OpenAI's Node library changes images with only its base URL changed; test_edit_endpoints.py uses that for Python."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import encoded, mask, picture
from tests.support.programs import NODE, install_node, program
from tests.support.server import Account
from tests.support.studio_http import CREDIT, PRICE

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="session")
def node() -> Path:
    """Return the folder of Node programs, with OpenAI's package installed."""
    install_node()
    return NODE


def run(node: Path, account: Account, *arguments: str) -> Any:
    command = [program("node"), "image_edit.mjs", account.server.url + "/v1", account.key, *arguments]
    done = subprocess.run(command, cwd=node, check=True, capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout)


def pixels(data: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def test_the_node_client_edits_within_a_mask(account: Account, node: Path, tmp_path: Path) -> None:
    source = picture()
    (tmp_path / "a.png").write_bytes(encoded(source))
    (tmp_path / "mask.png").write_bytes(encoded(mask()))
    images = run(node, account, "flat", str(tmp_path / "a.png"), str(tmp_path / "mask.png"))
    outside = np.ones((256, 320), bool)
    outside[80:180, 100:200] = False
    for number, data in enumerate(images):
        drawn = pixels(data)
        # The engine of this test paints the colour of its seed. The mark changes pixels by a few levels.
        assert np.abs(drawn[100:160, 120:180] - [0x12, 0x34, 0x56 + number]).max() <= 12
        assert np.abs(drawn - np.asarray(source).astype(int))[outside].max() <= 12
    assert len(images) == 2
    assert account.settled() == CREDIT - 2 * PRICE


def test_the_node_client_makes_a_variation(account: Account, node: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    (image,) = run(node, account, "flat", str(tmp_path / "a.png"))
    assert pixels(image).shape == (512, 512, 3)
    assert account.settled() == CREDIT - PRICE


def test_the_node_client_knows_our_refusals(account: Account, node: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    (tmp_path / "mask.png").write_bytes(encoded(mask(100, 100)))
    refusal = run(node, account, "flat", str(tmp_path / "a.png"), str(tmp_path / "mask.png"))
    assert refusal == {"name": "BadRequestError", "status": 400, "param": "mask", "code": "invalid_request"}
    (tmp_path / "a.png").write_bytes(b"no image")
    refusal = run(node, account, "flat", str(tmp_path / "a.png"))
    assert refusal == {"name": "BadRequestError", "status": 400, "param": "image", "code": "invalid_image"}
    assert account.settled() == CREDIT
