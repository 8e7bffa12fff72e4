"""Tiny checkpoints for all tests of the GPU engine, built once, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import packages_of_the_gpu_engine


@dataclass
class Checkpoints:
    """`folder` contains xl.safetensors and one.safetensors (SD 1.5), xl-folder and one-folder."""

    folder: Path
    xl: Any
    one: Any
    xl_folder: Any
    one_folder: Any

    def engine(self, **config: Any) -> Any:
        """Return an engine with a model per checkpoint, and `quick`: `one` with trailing timesteps."""
        from minitoolai.engines.diffusers.engine import make_batch_engine

        models = {name: {"weights": name} for name in ("xl.safetensors", "one.safetensors", "xl-folder", "one-folder")}
        models["quick"] = {"weights": "one.safetensors", "schedule": "trailing"}
        given = {"models": models, "folder": str(self.folder), "device": "cpu"} | config
        engine = make_batch_engine(given)
        engine.start()
        return engine


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoints]:
    packages_of_the_gpu_engine()
    import torch
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    from tests.support.diffusion import TINY_TOKENS, Tiny

    logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    before = torch.get_num_threads()
    # One thread is faster than several that wait for each other on a busy CPU.
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("weights")
    made = Checkpoints(
        folder,
        Tiny(is_xl=True),
        Tiny(is_xl=False),
        Tiny(is_xl=True, tokens=TINY_TOKENS),
        Tiny(is_xl=False, tokens=TINY_TOKENS),
    )
    made.xl.save_file(folder / "xl.safetensors", dtype=torch.float16)
    made.one.save_file(folder / "one.safetensors")
    made.xl_folder.save_folder(folder / "xl-folder")
    made.one_folder.save_folder(folder / "one-folder", variant="fp16")
    yield made
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def engine(checkpoints: Checkpoints) -> Any:
    """The engine that most tests share."""
    return checkpoints.engine()


@pytest.fixture
def generate(engine: Any) -> Callable[..., Any]:
    """Return a function that generates one image, as pixels (height, width, 3)."""
    from minitoolai.engines.diffusers.engine import generate as generate_one
    from minitoolai.engines.protocols import ImageRequest
    from tests.support.diffusion import pixels_of

    def one(model: str, **request: Any) -> Any:
        fields = {"prompt": "a red apple", "width": 64, "height": 64, "seed": 7, "steps": 3} | request
        return pixels_of(generate_one(engine, model, ImageRequest(**fields)).png)

    return one
