"""Normalize whole completions, for requests without streaming."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from minitoolai.chat.stream.chunks import SERVICE_TIERS, fingerprint, full_usage
from minitoolai.chat.stream.decoding import (
    FAILED,
    Json,
    clean_json,
    decode_json,
    index_or,
    json_with_halves,
    objects_of,
    read_finish_reason,
    read_usage,
    text_of,
    text_or,
    timestamp_or,
)
from minitoolai.chat.stream.deltas import Repair, repair_logprobs, repair_text_logprobs
from minitoolai.chat.stream.normalizer import ChunkNormalizer
from minitoolai.core.catalog.suppliers import THE_ENGINE, EngineLabel
from minitoolai.core.counting import (
    Judgement,
    PromptCount,
    estimate_output_tokens,
    is_believed,
    is_plausible,
    judge_usage,
    least_output,
    message_size,
    message_texts,
)
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import Usage
from minitoolai.engines.chat.failures import Fault, failure_in_answer, find_fault

# ── completions that need no repair ───────────────────────────────────────────────────────────────────────
#
# One pass of the decoder checks the types of everything that is documented. In messages, other fields are left as they
# are.


class _DocumentedFunction(msgspec.Struct):
    name: str
    arguments: str


class _DocumentedCall(msgspec.Struct):
    id: str
    type: Literal["function"]
    function: _DocumentedFunction


class _DocumentedMessage(msgspec.Struct):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None
    tool_calls: list[_DocumentedCall] | None = None
    function_call: _DocumentedFunction | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _DocumentedChoice(msgspec.Struct, forbid_unknown_fields=True):
    index: int
    message: dict[str, Any]
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"]
    logprobs: msgspec.Raw = msgspec.Raw(b"null")


class _DocumentedUsage(msgspec.Struct, forbid_unknown_fields=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, Any] | None = None
    completion_tokens_details: dict[str, Any] | None = None


class _DocumentedCompletion(msgspec.Struct, forbid_unknown_fields=True):
    """Completion in the documented form. Other fields may tell who the supplier is."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[_DocumentedChoice]
    usage: Any = None
    service_tier: Any = None
    system_fingerprint: Any = None
    error: Any = None


_decode_documented = msgspec.json.Decoder(_DocumentedCompletion).decode
_encode = msgspec.json.Encoder().encode

# ── completions of any form ───────────────────────────────────────────────────────────────────────────────


class _AnyChoice(msgspec.Struct):
    """Choice in which every field may have any type. `data` are the vectors of embeddings, which are not decoded."""

    index: Any = 0
    message: Any = None
    delta: Any = None
    text: Any = None
    logprobs: Any = None
    finish_reason: Any = None
    usage: Any = None
    data: msgspec.Raw = msgspec.Raw(b"")


class _AnyCompletion(msgspec.Struct):
    """Completion in which every field may have any type."""

    id: Any = None
    created: Any = None
    model: Any = None
    choices: list[_AnyChoice] | None = None
    usage: Any = None
    service_tier: Any = None
    system_fingerprint: Any = None
    error: Any = None


_decode_any = msgspec.json.Decoder(_AnyCompletion).decode


class _FullCompletion(msgspec.Struct):
    """Completion with every documented field."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Any]
    usage: Usage
    service_tier: str
    system_fingerprint: str


class NormalizedCompletion(msgspec.Struct, frozen=True):
    """Completion as sent to the caller, with its usage and the bytes of its text."""

    body: bytes
    judgement: Judgement
    model: str
    size: int

    @property
    def usage(self) -> Usage:
        return self.judgement.usage

    @property
    def is_estimated(self) -> bool:
        return self.judgement.is_estimated


def normalize_completion(
    body: bytes,
    *,
    forwards: bool,
    name: str,
    created_s: int,
    prompt: PromptCount,
    max_output: int = 2**31 - 1,
    output: int | None = None,
    is_exact: bool = False,
    echoed: int = 0,
    model: str = "",
    engine: str = THE_ENGINE,
) -> NormalizedCompletion:
    """Return a completion in the documented form. Raises EngineError or another failure if there is none.

    Without a believable usage from the engine, use our own count: `prompt` for the prompt, and for the
    output `output`, or else the bytes of its text without `echoed`, up to `max_output` tokens. `model` is the requested
    one, for engines that name none.
    """
    completion: _DocumentedCompletion | _AnyCompletion | None = _documented(body)
    choices: list[Any]
    if isinstance(completion, _DocumentedCompletion):
        choices, reported_usage, is_documented = completion.choices, completion.usage, True
        messages = [choice.message for choice in completion.choices]
    else:
        try:
            completion = _read(body, engine, name)
            choices = [_choice(choice, place, engine, name) for place, choice in enumerate(completion.choices or [])]
        except RecursionError as error:
            raise EngineError(f"{engine} sent an invalid completion: it is nested too deeply") from error
        is_documented, messages = False, [choice["message"] for choice in choices]
        # Moonshot reports the usage in a choice.
        reported_usage = completion.usage or next((one.usage for one in completion.choices or [] if one.usage), None)
    served = completion.model if isinstance(completion, _DocumentedCompletion) else text_or(completion.model, model)
    reported = read_usage(reported_usage)
    sizes = [_size(message) for message in messages if message]
    pieces, size = len(sizes) - sizes.count(0), sum(sizes)
    generated = max(0, size - echoed)
    least = 0 if is_exact else least_output(pieces, generated, output)
    if reported is not None and is_believed(reported, prompt, least, max_output):
        judgement = Judgement(reported, False)
    else:
        was_absurd = reported is not None and not is_plausible(reported)
        judgement = judge_usage(
            None if was_absurd else reported,
            prompt=prompt,
            tokens=min(max_output, estimate_output_tokens(pieces, generated) if output is None else output),
            has_begun=pieces > 0,
            least=least,
            most=max_output,
            was_absurd=was_absurd,
        )
    shown, number, mark = _shown(completion, served, model, engine, f"chatcmpl-{name[4:]}")
    is_documented = is_documented and (shown, number) == (served, completion.id) and mark is not None
    if forwards and is_documented and judgement.usage is reported:
        return NormalizedCompletion(body, judgement, served, size)
    tier = completion.service_tier
    full = _FullCompletion(
        id=number,
        object="chat.completion",
        created=timestamp_or(completion.created, created_s),
        model=shown,
        choices=choices,
        usage=full_usage(judgement.usage),
        service_tier=tier if isinstance(tier, str) and tier in SERVICE_TIERS else "default",
        system_fingerprint=fingerprint(shown, mark),
    )
    return NormalizedCompletion(_encode(full), judgement, served, size)


def _shown(
    completion: _DocumentedCompletion | _AnyCompletion, served: str, model: str, engine: str, own_id: str
) -> tuple[str, str, str | None]:
    """Return the model, the ID and the fingerprint that customers see. A fingerprint that names its maker is None."""
    number, mark = completion.id, completion.system_fingerprint
    if type(number) is not str or type(mark) is not str:
        number, mark = text_or(number, own_id), text_or(mark, "")
    if not isinstance(engine, EngineLabel) or not engine.is_upstream:
        return served, number or own_id, mark
    return engine.shown_model(model, served), engine.shown_id(number, own_id), None if engine.betrays(mark) else mark


#: Fields of a message that has no text except its content.
_PLAIN_FIELDS = frozenset(("role", "content", "refusal"))


def _size(message: Json) -> int:
    """Return the bytes of text in a message. Most messages have only a content."""
    if message.get("content") and not message.get("refusal") and message.keys() <= _PLAIN_FIELDS:
        return len(message["content"].encode())
    return message_size(message)


def completion_texts(body: bytes) -> list[str]:
    """Return every text in a completion that `normalize_completion` returned."""
    return [text for choice in decode_json(body)["choices"] for text in message_texts(choice["message"])]


def _documented(body: bytes) -> _DocumentedCompletion | None:
    """Return the completion if all of it has the documented form."""
    try:
        found = _decode_documented(body)
        if found.usage is not None:
            msgspec.convert(found.usage, _DocumentedUsage)
        for choice in found.choices:
            msgspec.convert(choice.message, _DocumentedMessage)
            logprobs = bytes(choice.logprobs)
            if logprobs != b"null" and repair_logprobs(logprobs) is not logprobs:
                return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.choices and found.id and found.model and not found.error else None


def _read(body: bytes, engine: str, name: str) -> _AnyCompletion:
    """Return the completion. Raises the reported failure for an error, or EngineError if it is unreadable."""
    try:
        found = _decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = _read_leniently(body, engine, name)
    if found.error or not found.choices:
        fault = find_fault(decode_json(body), is_answer=bool(found.choices))
        if fault is not None:
            raise failure_in_answer(fault, engine)
    if not found.choices:
        raise EngineError(f"{engine} sent a completion without choices")
    return found


def _read_leniently(body: bytes, engine: str, name: str) -> _AnyCompletion:
    try:
        value = decode_json(body)
    except ValueError as error:
        events = _from_events(body, engine, name)
        if events is None:
            raise EngineError(f"{engine} sent an invalid completion") from error
        value = events
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        raise EngineError(f"{engine} sent an invalid completion")
    # Strings without halves of surrogate pairs, and choices that are objects.
    return _decode_any(clean_json({**value, "choices": objects_of(value.get("choices"))}))


def _choice(choice: _AnyChoice, place: int, engine: str, name: str) -> Json:
    """Return a choice with its documented fields."""
    index = index_or(choice.index, place)
    received = choice.message if choice.message is not None else choice.delta
    is_text = received is None and choice.text is not None
    if is_text:
        received = {"content": text_of(choice.text)}
    message = Repair(name).message(json_with_halves(received), index)
    reason = read_finish_reason(choice.finish_reason)
    if reason == FAILED:
        raise failure_in_answer(Fault(codes=frozenset((FAILED,))), engine)
    logprobs: Any = choice.logprobs
    if logprobs is not None:
        repair = repair_text_logprobs if is_text else repair_logprobs
        logprobs = msgspec.Raw(repair(clean_json(logprobs)))
    found: Json = {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": reason or ("tool_calls" if message.get("tool_calls") else "stop"),
    }
    if bytes(choice.data):
        found["data"] = choice.data
    return found


# ── events where one object was requested ─────────────────────────────────────────────────────────────────


_EVENT = re.compile(rb"(?:^|[\r\n])(?:data|event|error):")


def _from_events(body: bytes, engine: str, name: str) -> Json | None:
    """Return the completion that a stream of events adds up to, or None if the body is no such stream.

    Raises the error that the stream reports.
    """
    body = body.strip(b"\xef\xbb\xbf\r\n ")
    is_lines = body.startswith(b"{") and b"\n" in body
    if not is_lines and not _EVENT.search(body):
        return None
    stream = ChunkNormalizer(forwards=False, include_usage=False, name=name, created_s=0, engine=engine)
    sent = stream.feed(body) + stream.end()
    if stream.error is not None:
        raise stream.error
    chunks = [decode_json(event[6:]) for event in sent.split(b"\n\n") if event]
    choices: dict[int, Json] = {}
    for choice in [choice for chunk in chunks for choice in chunk["choices"]]:
        whole = choices.setdefault(choice["index"], {"index": choice["index"], "message": {}, "logprobs": None})
        _add(whole["message"], choice["delta"])
        whole["finish_reason"] = choice["finish_reason"] or whole.get("finish_reason")
        if choice["logprobs"]:
            whole["logprobs"] = whole["logprobs"] or {}
            _add(whole["logprobs"], choice["logprobs"])
    head = chunks[0] if chunks else {}
    usage = None if stream.usage is None else msgspec.to_builtins(stream.usage)
    return {
        **{key: head.get(key) for key in ("id", "created", "model")},
        "choices": list(choices.values()),
        "usage": usage,
    }


def _add(whole: Json, piece: Json) -> None:
    """Add the fields of a delta to those of the whole: texts and lists are joined, tool calls by their index."""
    for field, value in piece.items():
        before = whole.get(field)
        if field in ("role", "id", "type", "index") or before is None:
            whole[field] = value if value is not None else before
        elif isinstance(before, str) and isinstance(value, str):
            whole[field] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _add(before, value)
        elif field == "tool_calls" and isinstance(before, list) and isinstance(value, list):
            for call in value:
                known = next((one for one in before if one["index"] == call["index"]), None)
                if known is None:
                    before.append(call)
                else:
                    _add(known, call)
        elif isinstance(before, list) and isinstance(value, list):
            whole[field] = before + value
