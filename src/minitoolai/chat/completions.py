"""An engine's answer in one piece, for a caller who did not ask for a stream."""

from __future__ import annotations

import msgspec

from minitoolai.chat.normalizer import BYTES_PER_TOKEN, Delta, fingerprint, full_usage, is_sane
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import Usage

_encode = msgspec.json.Encoder().encode


class _Spoken(msgspec.Struct):
    message: Delta | None = None


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


def whole_answer(
    body: bytes, *, forwards: bool, name: str, prompt: int, created_s: int
) -> tuple[bytes, Usage | None, str, int]:
    """(body for the caller, the engine's usage, model that answered, our own count of tokens where it said none).

    EngineError where it is no completion.
    """
    try:
        heard = _decode(body)
        if not heard.choices:
            raise EngineError("the engine sent a completion without choices")
        usage = heard.usage if heard.usage is not None and is_sane(heard.usage) else None
        if forwards and usage is not None:
            return body, usage, heard.model, 0
        completion = _decode_to_rewrite(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"the engine sent something that is no completion: {error}") from error
    tokens = sum(_tokens_of(choice.message) for choice in heard.choices)
    completion.id = completion.id or f"chatcmpl-{name[4:]}"
    completion.created = completion.created or created_s
    completion.service_tier = completion.service_tier or "default"
    completion.system_fingerprint = fingerprint(completion.model, completion.system_fingerprint)
    completion.usage = full_usage(usage or Usage(prompt, tokens))
    return _encode(completion), usage, completion.model, tokens


def _tokens_of(said: Delta | None) -> int:
    """Our own count of a whole message, by its bytes: at least one for whatever was said."""
    if said is None:
        return 0
    parts = (said.content, said.refusal, said.reasoning_content, said.tool_calls, said.function_call)
    size = sum(len(part.encode() if isinstance(part, str) else _encode(part)) for part in parts if part)
    return -(-size // BYTES_PER_TOKEN)
