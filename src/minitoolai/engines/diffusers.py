"""Stable Diffusion XL and 1.5 on this machine's GPU, from the operator's weights, through our own samplers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from minitoolai.core.errors import EngineError

from .base_images import Canvas
from .weights import Weights

PACKAGES = ("torch", "diffusers", "transformers", "safetensors")


class Wanted(msgspec.Struct, frozen=True):
    """A model of the catalog: where its weights lie, and its schedule (`discrete` or `trailing`)."""

    weights: str
    schedule: str = "discrete"


class DiffusersConfig(msgspec.Struct, frozen=True):
    """Plain data, for it travels to the child process."""

    models: dict[str, Wanted]
    folder: str
    #: "" takes the first GPU, and the processor where there is none.
    device: str = ""
    #: float16, bfloat16, float32; "" takes what suits the device.
    precision: str = ""
    #: Bytes of models kept loaded; 0 takes most of the device's memory.
    resident_bytes: int = 0
    #: Rows of one model call at most; a picture has one, or two with guidance.
    rows_per_call: int = 16


class DiffusersEngine:
    """Facts here, work in the child process."""

    name = "diffusers"

    def __init__(self, config: DiffusersConfig) -> None:
        self._config = config
        self._weights = Weights(Path(config.folder))

    def why_not_ready(self, model: str) -> str | None:
        wanted = self._config.models.get(model)
        if wanted is None:
            return f"the catalog gives {model} to somebody else"
        if (missing := self._weights.why_missing(wanted.weights)) is not None:
            return missing
        absent = [package for package in PACKAGES if find_spec(package) is None]
        return f"{', '.join(absent)} not installed: see docs/howto/gpu.md" if absent else "not in this version yet"

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Same weights, same schedule of levels, same latent size."""
        wanted = self._config.models[model]
        return f"{wanted.weights} {-(-width // 8)}x{-(-height // 8)}"

    def start(self) -> None:
        raise EngineError("not in this version yet")

    def stop(self) -> None:
        return

    def open(self, model: str) -> Canvas:
        raise EngineError("not in this version yet")


def make_canvas_engine(config: dict[str, Any]) -> DiffusersEngine:
    """From the fields of DiffusersConfig."""
    return DiffusersEngine(msgspec.convert(config, DiffusersConfig))
