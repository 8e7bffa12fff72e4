"""Catalog types of transcription models: price per second, formats and the longest recording."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

import msgspec

from minitoolai.core.money import NANO_PER_DOLLAR
from minitoolai.core.transcription import TRANSCRIPT_FORMATS, TranscriptFormat

SECONDS_PER_MINUTE: Final = 60


class TranscriptionEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Transcription model in the file. The price is dollars per minute of audio, as a string."""

    #: dollars per minute of audio, in quotes; per second it must be a whole number of nano-dollars.
    price: str
    #: in order of preference: the first available one is used.
    engines: list[str]
    #: values of `response_format` that it supports.
    formats: tuple[TranscriptFormat, ...] = TRANSCRIPT_FORMATS
    #: it is offered for /v1/audio/translations, too.
    translates: bool = False
    #: longest recording of one request, in seconds.
    max_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 14_400


class TranscriptionModel(msgspec.Struct, frozen=True):
    """Transcription model, validated. The price is nano-dollars per second."""

    name: str
    price: int
    engines: tuple[str, ...]
    formats: tuple[TranscriptFormat, ...]
    translates: bool
    max_seconds: int


def price_per_second(dollars_per_minute: str) -> int:
    """Convert a price in dollars per minute to nano-dollars per second.

    Raise ValueError unless it is a number of at most $1 per minute, and the result is whole.
    """
    try:
        per_minute = Decimal(dollars_per_minute)
    except InvalidOperation:
        raise ValueError(f"{dollars_per_minute!r} is not a price; write it like 0.006") from None
    if not per_minute.is_finite() or not 0 <= per_minute <= 1:
        raise ValueError(f"{dollars_per_minute!r} per minute must be from 0 to 1 dollar")
    per_second = per_minute * NANO_PER_DOLLAR / SECONDS_PER_MINUTE
    if per_second != int(per_second):
        raise ValueError(f"{dollars_per_minute!r} per minute is not a whole number of nano-dollars per second")
    return int(per_second)
