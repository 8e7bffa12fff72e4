"""What every speech engine offers: text goes in sentence by sentence, audio in the caller's format comes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from minitoolai.core.inference import Piece, Sound, SpeechRequest
from minitoolai.core.voices import VoiceEntry


class SpokenAnswer(Protocol):
    """A text being spoken. Whoever opened it closes it, on every path."""

    async def next_sound(self) -> Sound | None:
        """What is spoken next, None at the end; nothing is spoken ahead of what is asked for. EngineError."""

    async def close(self) -> None:
        """Let go. What is not spoken yet never will be, and the voice is free."""


class SpeechEngine(Protocol):
    """Somebody who speaks. Everything may be called at any time."""

    name: str

    def why_not_ready(self) -> str | None:
        """None when it can speak; else a sentence with the remedy, for `minitoolai models`."""

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        """None when it can speak with this voice; else a sentence with the remedy."""

    def served_model(self, model: str) -> str:
        """What really speaks when this model is asked for."""

    def unsupported_field(self, request: SpeechRequest) -> str | None:
        """The first field of the request that this engine cannot honour."""

    def check_room(self) -> None:
        """Overloaded if a request sent now would not even be queued."""

    async def open(self, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[Piece]) -> SpokenAnswer:
        """Take a voice; the pieces together are the text. Overloaded, EngineError."""

    async def start(self) -> None:
        """Get ready: load, spawn, connect."""

    async def stop(self) -> None:
        """Let go of everything."""
