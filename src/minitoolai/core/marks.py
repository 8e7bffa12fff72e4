"""The 48 bits of a watermark: when and by which generation it was made, encrypted and checked with the secret key.

30 bits are the second of the generation, 4 bits a keyed hash of its ID, and 14 check bits are a keyed hash of both. The
time and a table of generations identify the generation; the check bits reject noise and other operators' marks.
"""

from __future__ import annotations

import hmac

import msgspec

from minitoolai.core.signing import all_keys

CODE_BITS = 48
_CHECK_BITS, _TAG_BITS, _SECOND_BITS = 14, 4, 30
_ID_BITS = _SECOND_BITS + _TAG_BITS
_HALF_BITS = _ID_BITS // 2
_HALF_MASK = (1 << _HALF_BITS) - 1
_ROUNDS = 6
#: 2026-01-01, UTC. 30 bits of seconds last until 2060.
EPOCH_S = 1_767_225_600
#: Purpose of the keys that are derived from the secret key of the installation.
KEY_PURPOSE = b"marks"

#: In standard deviations. A fainter watermark of an image may be chance: it counts only if its check bits fit.
CLEAR_SYNC = 7.0


class Watermark(msgspec.Struct, frozen=True):
    """What an engine embeds: the code, and the key that determines where its bits are."""

    key: bytes
    code: int


class SpeechWatermark(msgspec.Struct, frozen=True):
    """What a voice embeds: the operator's key and the day since 2026-01-01."""

    key: bytes
    day: int


class SpeechMark(msgspec.Struct, frozen=True):
    """How one text is marked: the watermark, and the comment in the metadata of the container."""

    watermark: SpeechWatermark
    comment: str


class MarkedGeneration(msgspec.Struct, frozen=True):
    """What a code says: the second of the generation, since 1970, and four bits of a hash of its ID."""

    second: int
    tag: int
    key: bytes

    def is_of(self, generation_id: int) -> bool:
        """Return True if the hash is that of this ID; one in 16 other IDs of the same second has it too."""
        return _tag(self.key, generation_id) == self.tag


class MarkCodec:
    """Make and read codes with a ring of keys: the current key makes them, all keys read them."""

    def __init__(self, secret: bytes) -> None:
        derive = getattr(secret, "derive", None)
        self.keys = all_keys(derive(KEY_PURPOSE) if derive is not None else secret)

    def watermark(self, generation_id: int, created_ms: int) -> Watermark:
        """Return the watermark of a generation."""
        key = self.keys[0]
        second = min(max(created_ms // 1000 - EPOCH_S, 0), (1 << _SECOND_BITS) - 1)
        plain = second << _TAG_BITS | _tag(key, generation_id)
        return Watermark(_signal_key(key), _encrypt(key, plain) << _CHECK_BITS | _check(key, plain))

    def speech_watermark(self, created_ms: int) -> SpeechWatermark:
        """Return the watermark of speech of this day."""
        return SpeechWatermark(_signal_key(self.keys[0]), max(created_ms // 1000 - EPOCH_S, 0) // 86_400)

    def signal_keys(self) -> list[bytes]:
        """Return the keys that determine where the bits are, newest first."""
        return [_signal_key(key) for key in self.keys]

    def read(self, code: int, signal_key: bytes) -> MarkedGeneration | None:
        """Return what a detected code says, or None if its check bits are wrong."""
        for key in self.keys:
            if _signal_key(key) != signal_key:
                continue
            plain = _decrypt(key, code >> _CHECK_BITS)
            if _check(key, plain) == code & ((1 << _CHECK_BITS) - 1):
                return MarkedGeneration((plain >> _TAG_BITS) + EPOCH_S, plain & ((1 << _TAG_BITS) - 1), key)
        return None


def _signal_key(key: bytes) -> bytes:
    return hmac.digest(key, b"signal", "sha256")[:16]


def _number(key: bytes, purpose: bytes, value: int, bits: int) -> int:
    digest = hmac.digest(key, purpose + value.to_bytes(8, "big"), "sha256")
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


def _tag(key: bytes, generation_id: int) -> int:
    return _number(key, b"tag", generation_id, _TAG_BITS)


def _check(key: bytes, plain: int) -> int:
    return _number(key, b"check", plain, _CHECK_BITS)


def _encrypt(key: bytes, plain: int) -> int:
    """Encrypt with a Feistel network, so that only the operator can read the time."""
    left, right = plain >> _HALF_BITS, plain & _HALF_MASK
    for turn in range(_ROUNDS):
        left, right = right, left ^ _number(key, b"round%d" % turn, right, _HALF_BITS)
    return left << _HALF_BITS | right


def _decrypt(key: bytes, cipher: int) -> int:
    left, right = cipher >> _HALF_BITS, cipher & _HALF_MASK
    for turn in reversed(range(_ROUNDS)):
        left, right = right ^ _number(key, b"round%d" % turn, left, _HALF_BITS), left
    return left << _HALF_BITS | right
