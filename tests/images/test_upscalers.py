"""Tests of enlarging jobs on a server with an upscaler of the operator's, and with one that is faulty."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from tests.support.pictures import encoded, picture
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG, CREDIT, PRICE, check_image_refusal, submit, wait
from tests.support.tiny_onnx import doubling, save_model

JOBS = "/api/imagetoimage/"


def enlarged(account: Account, model: str) -> tuple[Image.Image, str]:
    """Return the result of a job that enlarges a picture twice, and the model that it names."""
    files = {"image": ("a.png", encoded(picture(64, 48)))}
    fields = {"model": model, "task": "upscale"}
    body = requests.post(
        account.server.url + JOBS, data=fields, files=files, headers=account.headers, timeout=60
    ).json()
    state = wait(account, {"jobid": body["jobid"], "signature": body["signature"]})
    assert state["status"] == "success", state
    content = requests.get(state["image_url"], timeout=30).content
    return Image.open(io.BytesIO(content)), state["model"]


def test_an_upscaler_enlarges_and_a_faulty_one_falls_back_to_the_filter(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    save_model(weights / "twice.onnx", doubling())
    (weights / "faulty.onnx").write_bytes(b"no model")
    catalog = CATALOG
    for name, file in (("flat", "twice"), ("slow", "faulty")):
        entry = f'weights = "{name}.safetensors"'
        catalog = catalog.replace(entry, f'{entry}\nupscaler = "{file}.onnx"')
    env = {"MINITOOLAI_WEIGHTS_DIR": str(weights), "MINITOOLAI_MARKS": "off"}
    (tmp_path / "data").mkdir()
    with ServerProcess(tmp_path / "data", catalog=catalog, env=env) as server:
        account = server.account()
        own, named = enlarged(account, "flat")
        filtered, of_filter = enlarged(account, "slow")
        assert account.settled() == CREDIT - 2 * PRICE
    source = np.asarray(picture(64, 48))
    assert np.array_equal(np.asarray(own), source.repeat(2, 0).repeat(2, 1))
    assert np.array_equal(np.asarray(filtered), np.asarray(picture(64, 48).resize((128, 96), Image.Resampling.LANCZOS)))
    assert (named, of_filter) == ("twice", "lanczos")
    assert "Model: twice" in own.text["parameters"]  # type: ignore[attr-defined]
    assert "Model: lanczos" in filtered.text["parameters"]  # type: ignore[attr-defined]


def test_a_tag_is_refused_by_the_embedded_model(sketch_server: ServerProcess) -> None:
    account = sketch_server.account()
    before = account.money()
    answer = submit(account, model="realvision", prompt="a cat <lora:pencil:0.8>")
    check_image_refusal(answer, 400, "invalid_request", "prompt names a LoRA in angle brackets, but realvision offers")
    assert account.money() == before
