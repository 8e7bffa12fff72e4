"""Tiny checkpoints for every test of the GPU engine, built once, on the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import packages_of_the_gpu_engine


@dataclass
class Checkpoints:
    """`folder` holds xl.safetensors and one.safetensors (SD 1.5), and xl-folder and one-folder."""

    folder: Path
    xl: Any
    one: Any
    xl_folder: Any
    one_folder: Any

    def engine(self, **config: Any) -> Any:
        """An engine that offers each of them under its name, and `quick`, which is `one` with levels that trail."""
        from minitoolai.engines.diffusers.engine import make_canvas_engine

        models = {name: {"weights": name} for name in ("xl.safetensors", "one.safetensors", "xl-folder", "one-folder")}
        models["quick"] = {"weights": "one.safetensors", "schedule": "trailing"}
        given = {"models": models, "folder": str(self.folder), "device": "cpu"} | config
        engine = make_canvas_engine(given)
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
    # Threads that wait for each other are slower than one, where others want the processor too.
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
    """One engine that most tests share."""
    return checkpoints.engine()


@pytest.fixture
def draw(engine: Any) -> Callable[..., Any]:
    """One picture: `draw(model, **request)` → pixels (height, width, 3) as numbers."""
    from minitoolai.engines.diffusers.engine import draw as draw_one
    from minitoolai.engines.protocols import ImageRequest
    from tests.support.diffusion import pixels_of

    def one(model: str, **request: Any) -> Any:
        asked = {"prompt": "a red apple", "width": 64, "height": 64, "seed": 7, "steps": 3} | request
        return pixels_of(draw_one(engine, model, ImageRequest(**asked)).png)

    return one
