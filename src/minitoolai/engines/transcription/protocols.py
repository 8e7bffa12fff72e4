"""The interface of transcription engines. Adapters translate every failure of an engine into an EngineError."""

from __future__ import annotations

from typing import Protocol

from minitoolai.core.transcription import Recording, TranscriptionRequest, TranscriptPart


class Transcript(Protocol):
    """A recording that is being transcribed. The caller must close it on every path."""

    async def next_part(self) -> TranscriptPart | None:
        """Return the next part, or None at the end. Raises EngineError, or InvalidRequest if the file is at fault."""

    async def close(self) -> None:
        """Stop the work and release the engine."""


class TranscriptionEngine(Protocol):
    """An engine for transcription. Its methods may be called at any time."""

    name: str
    #: Request fields that are sent to the engine unchanged.
    forwards: frozenset[str]
    #: The engine continues and bills after a disconnect: read on, and charge all it processed.
    bills_after_cancel: bool

    def why_not_ready(self) -> str | None:
        """Return None if the engine is ready, else the reason and the remedy, for `minitoolai models`."""

    def served_model(self, model: str) -> str:
        """Return the name of the model that serves requests for `model`."""

    def check_capacity(self) -> None:
        """Raise EngineFull if a request sent now could not even be queued."""

    async def open(self, request: TranscriptionRequest, recording: Recording) -> Transcript:
        """Reserve the engine for a recording. Raises InvalidRequest, Overloaded or EngineError."""

    async def start(self) -> None:
        """Load, spawn or connect what the engine needs."""

    async def stop(self) -> None:
        """Release all resources."""
