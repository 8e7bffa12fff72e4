"""Tests of the contract's own programs, unchanged, against the shipped catalog: one image for $0.0015."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.support.programs import program as installed
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CREDIT, PRICE

CONTRACT = Path(__file__).parent / "contract"


@pytest.fixture
def account(sketch_server: ServerProcess) -> Account:
    return sketch_server.account()


def run(interpreter: str, program: str, account: Account, folder: Path) -> str:
    env = {**os.environ, "MINITOOLAI_URL": account.server.url, "MINITOOLAI_KEY": account.key}
    command = [installed(interpreter), str(CONTRACT / program)]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.strip()


def test_the_python_program_gets_an_image_and_pays_for_it(account: Account, tmp_path: Path) -> None:
    link = run(sys.executable, "image.py.txt", account, tmp_path)
    assert link.startswith(account.server.url)
    with Image.open(tmp_path / "picture.png") as image:
        assert image.size == (1152, 768)
        assert image.text["parameters"].startswith(  # type: ignore[attr-defined]
            "a lighthouse on a cliff at dusk, cinematic composition\nNegative prompt: blurry, deformed\nSteps: 4, "
            "Sampler: DPM++ SDE, CFG scale: 2, Seed: "
        )
        assert "Size: 1152x768, Model: minitoolai-sketch-1, " in image.text["parameters"]  # type: ignore[attr-defined]
    assert account.settled() == CREDIT - PRICE


def test_the_php_program_gets_an_image_and_pays_for_it(account: Account, tmp_path: Path) -> None:
    state = json.loads(run("php", "image.php.txt", account, tmp_path))
    assert (state["status"], state["message"], state["model"]) == ("success", "success", "minitoolai-sketch-1")
    answer = requests.get(state["image_url"], stream=True, timeout=30)
    with Image.open(answer.raw) as image:
        assert image.size == (768, 512)
    assert account.settled() == CREDIT - PRICE
