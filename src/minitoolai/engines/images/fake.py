"""A deterministic image engine for tests: a flat colour derived from the seed, in the real child process.

Each of the words below, in a prompt, triggers a failure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from minitoolai.core.errors import EngineRefused
from minitoolai.engines.images.codec import encode_square
from minitoolai.engines.protocols import FailedImage, GeneratedImage, ImageRequest, OnProgress

#: In this order: refused by `add`; breaks the call of the whole batch; fails alone; kills the process; never ends.
REFUSED = "unpaintable"
RAISES = "unruly"
TOO_LARGE = "enormous"
DIES = "deadly"
HANGS = "endless"
#: A model with this in its name has no weights.
MISSING = "missing"


class FakeBatchEngine:
    """Serves any model. A model call takes `delay_ms`, independent of the size of the batch."""

    def __init__(self, model: str, delay_ms: float) -> None:
        self.name = model
        self._delay_s = delay_ms / 1000

    def why_not_ready(self, model: str) -> str | None:
        return "the weights of this fake model are missing: choose another model" if MISSING in model else None

    def lora_names(self, model: str) -> None:
        """Return None: every prompt is drawn."""

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Return one batch per model and size, like a real checkpoint."""
        return f"{model} {width}x{height}"

    def start(self) -> None:
        """Import Pillow now instead of with the first image."""
        import PIL.PngImagePlugin  # noqa: F401

    def stop(self) -> None:
        return

    def open(self, model: str) -> FakeBatch:
        """Return an empty batch."""
        return FakeBatch(self.name, self._delay_s)


class FakeBatch:
    """Runs one call per step."""

    def __init__(self, model: str, delay_s: float) -> None:
        self._model = model
        self._delay_s = delay_s
        self._slots: dict[int, tuple[ImageRequest, OnProgress | None, int]] = {}
        self._last_slot = 0

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        if REFUSED in request.prompt:
            raise EngineRefused("this prompt cannot be generated")
        self._last_slot += 1
        self._slots[self._last_slot] = (request, on_progress, 0)
        return self._last_slot

    def remove(self, slot_id: int) -> None:
        self._slots.pop(slot_id, None)

    def step(self) -> Sequence[GeneratedImage | FailedImage]:
        ended: list[GeneratedImage | FailedImage] = []
        time.sleep(self._delay_s)
        for slot_id, (request, on_progress, step) in list(self._slots.items()):
            _trigger_failure(request.prompt)
            self._slots[slot_id] = (request, on_progress, step + 1)
            if on_progress is not None:
                on_progress(step + 1, request.steps)
            if TOO_LARGE in request.prompt:
                ended.append(FailedImage(slot_id=slot_id, error="out of memory for this image alone"))
            elif step + 1 == request.steps:
                ended.append(GeneratedImage(slot_id=slot_id, png=_render(request, self._model), model=self._model))
        for image in ended:
            del self._slots[image.slot_id]
        return ended


def _trigger_failure(prompt: str) -> None:
    if RAISES in prompt:
        raise MemoryError("no memory for the whole batch")
    if DIES in prompt:
        os._exit(11)
    while HANGS in prompt:
        time.sleep(1)


def _render(request: ImageRequest, model: str) -> bytes:
    import numpy as np

    colour = [request.seed >> shift & 255 for shift in (16, 8, 0)]
    return encode_square(np.full((8, 8, 3), colour, np.uint8), request, model)


def make_batch_engine(config: dict[str, Any]) -> FakeBatchEngine:
    """Return an engine that names `model` in its images and takes `delay_ms` per model call."""
    return FakeBatchEngine(config["model"], config["delay_ms"])
