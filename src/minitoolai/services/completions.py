"""An engine's answer in one piece, for a caller who did not ask for a stream."""

from __future__ import annotations

from typing import Any

import msgspec

from minitoolai.core.errors import EngineError
from minitoolai.core.inference import Usage
from minitoolai.services.counting import counted, said_size, tokens_written
from minitoolai.services.events import LARGEST_COUNT, fingerprint, full_usage, is_sane

_encode = msgspec.json.Encoder().encode


class _Spoken(msgspec.Struct):
    message: dict[str, Any] | None = None


class _Completion(msgspec.Struct):
    """What we look at of a completion."""

    model: str = ""
    choices: list[_Spoken] = []
    usage: Usage | None = None


class _Rewritten(msgspec.Struct):
    """The same with every documented field; the choices pass through unread."""

    id: str = ""
    object: str = "chat.completion"
    created: int = 0
    model: str = ""
    choices: msgspec.Raw = msgspec.Raw(b"[]")
    usage: Usage | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None


_decode = msgspec.json.Decoder(_Completion, strict=False).decode
_decode_to_rewrite = msgspec.json.Decoder(_Rewritten, strict=False).decode


class Whole(msgspec.Struct, frozen=True):
    """A completion as its caller gets it, and what it counts: `is_estimated` where that is partly our own count."""

    body: bytes
    usage: Usage
    is_estimated: bool
    model: str


def whole_answer(
    body: bytes, *, forwards: bool, name: str, created_s: int, prompt: int = 0, most: int = LARGEST_COUNT
) -> Whole:
    """Check a completion and fill in what the engine left out. EngineError where it is none.

    Where the engine did not count, or counted zero, `prompt` and the bytes of the text stand in, up to `most` tokens.
    """
    try:
        heard = _decode(body)
        if not heard.choices:
            raise EngineError("the engine sent a completion without choices")
        reported = heard.usage if heard.usage is not None and is_sane(heard.usage) else None
        if forwards and reported is not None and reported.prompt_tokens and reported.completion_tokens:
            return Whole(body, reported, False, heard.model)
        sizes = [said_size(choice.message) for choice in heard.choices if choice.message]
        pieces = len(sizes) - sizes.count(0)
        tokens = min(most, tokens_written(pieces, sum(sizes)))
        usage, is_estimated = counted(reported, prompt=prompt, tokens=tokens, has_begun=pieces > 0)
        if forwards and usage is reported:
            return Whole(body, usage, False, heard.model)
        completion = _decode_to_rewrite(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"the engine sent something that is no completion: {error}") from error
    completion.id = completion.id or f"chatcmpl-{name[4:]}"
    completion.created = completion.created or created_s
    completion.service_tier = completion.service_tier or "default"
    completion.system_fingerprint = fingerprint(completion.model, completion.system_fingerprint)
    completion.usage = full_usage(usage)
    return Whole(_encode(completion), usage, is_estimated, completion.model)
