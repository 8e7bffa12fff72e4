"""What every image engine offers: pictures are added to a canvas, which is advanced one model call at a time.

Rows of different requests may share a model call, join while others are half drawn, and leave when done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

#: Told (steps done, steps in all) as one picture comes along.
OnProgress = Callable[[int, int], None]


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One picture asked for, already checked: everything that decides what is drawn."""

    prompt: str
    negative_prompt: str = ""
    scheduler: str = "DPM++ SDE"
    steps: int = 4
    cfg_scale: float = 2.0
    width: int = 1024
    height: int = 1024
    seed: int = 0


class DrawnImage(msgspec.Struct, frozen=True, kw_only=True):
    """A finished picture. `model` is what really drew it."""

    ticket: int
    png: bytes
    model: str


class Canvas(Protocol):
    """Pictures under way on one engine. Not safe for threads: whoever opened it advances it."""

    def __len__(self) -> int:
        """How many pictures are not finished yet."""

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Begin a picture; it joins the next model call. The ticket names it among the finished ones."""

    def remove(self, ticket: int) -> None:
        """Forget a picture that nobody waits for any more. An unknown ticket is no error."""

    def step(self) -> list[DrawnImage]:
        """One model call for every picture under way; returns those that it finished."""


class ImageEngine(Protocol):
    """Somebody who draws."""

    name: str

    def why_not_ready(self) -> str | None:
        """None when it can draw; else a sentence with the remedy, for `minitoolai models`."""

    def start(self) -> None:
        """Get ready: load the weights. Heavy libraries are imported here and not before."""

    def stop(self) -> None:
        """Let go of everything."""

    def open(self) -> Canvas:
        """An empty canvas on the loaded model."""
