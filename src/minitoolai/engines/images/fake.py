"""A deterministic image engine for tests and load: flat colours drawn from the seed, in the real child process.

A prompt that holds one of the words below brings about what it names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from minitoolai.core.errors import EngineRefused
from minitoolai.engines.images.codec import png_of
from minitoolai.engines.protocols import FailedImage, GeneratedImage, ImageRequest, OnProgress

#: Refused at once; breaks the call of everything beside it; fails alone; kills the process; never ends.
REFUSED = "unpaintable"
RAISES = "unruly"
TOO_LARGE = "enormous"
DIES = "deadly"
HANGS = "endless"
#: A model of the catalog with this in its name has no weights.
MISSING = "missing"


class FakeBatchEngine:
    """Draws any model. `delay_ms` is the time of a model call, however many pictures are in it."""

    def __init__(self, model: str, delay_ms: float) -> None:
        self.name = model
        self._delay_s = delay_ms / 1000

    def why_not_ready(self, model: str) -> str | None:
        return "a fake's weights are missing: choose another model" if MISSING in model else None

    def batch_key(self, model: str, width: int, height: int) -> str:
        """As a checkpoint would: one model and one size."""
        return f"{model} {width}x{height}"

    def start(self) -> None:
        """Pay for the import now rather than with the first picture."""
        import PIL.PngImagePlugin  # noqa: F401

    def stop(self) -> None:
        return

    def open(self, model: str) -> FakeBatch:
        """An empty canvas."""
        return FakeBatch(self.name, self._delay_s)


class FakeBatch:
    """Every step of a picture is one call."""

    def __init__(self, model: str, delay_s: float) -> None:
        self._model = model
        self._delay_s = delay_s
        self._pictures: dict[int, tuple[ImageRequest, OnProgress | None, int]] = {}
        self._last_ticket = 0

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        if REFUSED in request.prompt:
            raise EngineRefused("this prompt cannot be painted")
        self._last_ticket += 1
        self._pictures[self._last_ticket] = (request, on_progress, 0)
        return self._last_ticket

    def remove(self, ticket: int) -> None:
        self._pictures.pop(ticket, None)

    def step(self) -> Sequence[GeneratedImage | FailedImage]:
        ended: list[GeneratedImage | FailedImage] = []
        time.sleep(self._delay_s)
        for ticket, (request, on_progress, step) in list(self._pictures.items()):
            _misbehave(request.prompt)
            self._pictures[ticket] = (request, on_progress, step + 1)
            if on_progress is not None:
                on_progress(step + 1, request.steps)
            if TOO_LARGE in request.prompt:
                ended.append(FailedImage(ticket=ticket, error="out of memory for this picture alone"))
            elif step + 1 == request.steps:
                ended.append(GeneratedImage(ticket=ticket, png=_flat(request, self._model), model=self._model))
        for image in ended:
            del self._pictures[image.ticket]
        return ended


def _misbehave(prompt: str) -> None:
    if RAISES in prompt:
        raise MemoryError("no memory for the whole batch")
    if DIES in prompt:
        os._exit(11)
    while HANGS in prompt:
        time.sleep(1)


def _flat(request: ImageRequest, model: str) -> bytes:
    import numpy as np

    colour = [request.seed >> shift & 255 for shift in (16, 8, 0)]
    return png_of(np.full((8, 8, 3), colour, np.uint8), request, model)


def make_canvas_engine(config: dict[str, Any]) -> FakeBatchEngine:
    """`model` is the name that pictures carry, `delay_ms` the time of a model call."""
    return FakeBatchEngine(config["model"], config["delay_ms"])
