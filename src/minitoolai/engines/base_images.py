"""What image engines offer, on two levels.

A worker speaks to an `ImageEngine`. Behind one of them, in a child process, a `CanvasEngine` advances many pictures
one model call at a time: rows of different requests share a call, join while others are half drawn, leave when done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """A finished picture. `model` is what really drew it; `ticket` names it on its canvas."""

    png: bytes
    model: str
    ticket: int = 0


class FailedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that left its canvas unfinished, for a reason of its own: out of memory, say. The others go on."""

    ticket: int
    error: str
    #: The request is to blame: another attempt would end the same way.
    refused: bool = False


# ── what a worker speaks to ───────────────────────────────────────────────────────────────────────────────


class ImageEngine(Protocol):
    """Somebody who draws. Everything may be called at any time."""

    name: str
    #: Pictures it takes at once; more are not claimed for it.
    rows: int

    @property
    def is_up(self) -> bool:
        """It takes pictures just now. What waits for one that is starting again goes on waiting."""

    def why_not_ready(self, model: str) -> str | None:
        """None when it can draw this model of the catalog; else a sentence with the remedy."""

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Pictures with the same key are drawn together, whatever else differs."""

    async def start(self) -> None:
        """Get ready: load, spawn, connect. EngineError."""

    async def stop(self) -> None:
        """Let go of everything; pictures under way raise EngineError."""

    async def draw(self, model: str, request: ImageRequest, on_progress: OnProgress) -> DrawnImage:
        """One picture of a model of the catalog; many may be under way. Cancelled, it lets go between two steps.

        EngineRefused: the request is to blame. Any other EngineError: try again.
        """


# ── what runs in a child process ──────────────────────────────────────────────────────────────────────────


class Canvas(Protocol):
    """Pictures under way on one engine. Not safe for threads: whoever opened it advances it."""

    def __len__(self) -> int:
        """How many pictures are not finished yet."""

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Begin a picture; it joins the next model call. The ticket names it among the finished ones."""

    def remove(self, ticket: int) -> None:
        """Forget a picture that nobody waits for any more. An unknown ticket is no error."""

    def step(self) -> Sequence[DrawnImage | FailedImage]:
        """One model call for every picture under way; returns those that it ended.

        What it raises concerns them all: each is then drawn again from its beginning, alone.
        """


class CanvasEngine(Protocol):
    """Somebody who draws, one model call at a time. Made from plain data, here for its facts and in the child to work.

    `why_not_ready` and `batch_key` answer without heavy libraries and before `start`.
    """

    name: str

    def why_not_ready(self, model: str) -> str | None:
        """None when it can draw this model of the catalog; else a sentence with the remedy."""

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Pictures with the same key share a canvas: same checkpoint and latent size."""

    def start(self) -> None:
        """Get ready. Heavy libraries are imported here and not before. EngineError."""

    def stop(self) -> None:
        """Let go of everything."""

    def open(self, model: str) -> Canvas:
        """An empty canvas for a model of the catalog; its weights are loaded where they are not yet. EngineError."""
