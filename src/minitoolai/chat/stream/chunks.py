"""Chunks as they are sent, with every documented field."""

from __future__ import annotations

import zlib

import msgspec

from minitoolai.chat.stream.decoding import ReceivedChoice
from minitoolai.core.inference import CompletionDetails, TokenDetails, Usage

DONE = b"data: [DONE]\n\n"
SERVICE_TIERS = frozenset(("auto", "default", "flex", "scale", "priority"))


class Chunk(msgspec.Struct):
    """Represent a `chat.completion.chunk` with every documented field."""

    id: str = ""
    object: str = "chat.completion.chunk"
    created: int = 0
    model: str = ""
    service_tier: str | None = None
    system_fingerprint: str | None = None
    choices: list[ReceivedChoice] = []
    usage: Usage | None = None


class ChunkWithoutUsage(msgspec.Struct):
    """Represent a chunk for a caller that did not request the usage."""

    id: str
    object: str
    created: int
    model: str
    service_tier: str | None
    system_fingerprint: str | None
    choices: list[ReceivedChoice]


def full_usage(usage: Usage) -> Usage:
    """Return the usage with a total and both detail objects, filling in those that the engine left out."""
    read = usage.prompt_tokens_details or TokenDetails()
    if read.cache_write_1h_tokens is not msgspec.UNSET:
        # Only for the price: OpenAI's format does not have it.
        read = msgspec.structs.replace(read, cache_write_1h_tokens=msgspec.UNSET)
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        read,
        usage.completion_tokens_details or CompletionDetails(),
    )


def fingerprint(model: str, reported: str | None = None) -> str:
    """Return a `system_fingerprint` in the documented form: the engine's own, or a checksum of model and own value."""
    if reported and reported.startswith("fp_"):
        return reported
    return f"fp_{zlib.crc32((model + (reported or '')).encode()):08x}"
