"""Repair deltas and messages: convert text, tool calls and logprobs of any engine to the documented form."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from minitoolai.chat.stream.decoding import (
    Json,
    clean_json,
    clean_text,
    decode_json,
    index_or,
    objects_of,
    text_of,
    text_or,
    thoughts_of,
)

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any] | None).decode
#: The most frequent deltas, which need no repair: a single text, or a piece of one call's arguments. A string of
#: megabytes that is followed by something else must not be retried from each of its characters: hence the possessive
#: `*+`, which does not backtrack.
_STRING = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
match_text = re.compile(rb'\{"(?:content|reasoning(?:_content)?)":' + _STRING + rb"\}").fullmatch
match_arguments = re.compile(
    rb'\{"tool_calls":\[\{"index":(\d{1,9}),"function":\{"arguments":' + _STRING + rb"\}\}\]\}"
).fullmatch
#: Fields with text that arrives in pieces.
_TEXT_FIELDS = ("content", "refusal", "reasoning_content", "reasoning", "thinking")


class Repair:
    """Repair the deltas of one stream, or the messages of one completion.

    Keeps state across deltas: the index and ID of each tool call, and half an emoji that awaits its other half.
    """

    __slots__ = ("_call_prefix", "_calls", "_halves", "renumbers")

    def __init__(self, name: str) -> None:
        """Create the state. Tool calls without an ID get a unique one that contains the end of `name`."""
        self._call_prefix = f"call_{name.rpartition('-')[2]}"
        #: By choice: the calls in order, each with the engine's index and the ID that was sent.
        self._calls: dict[int, list[BegunCall]] = {}
        #: The first half of a surrogate pair, by choice, field and tool call.
        self._halves: dict[tuple[int, str, int], str] = {}
        #: A call was sent with another index than the engine's, so its pieces must not be forwarded.
        self.renumbers = False

    @property
    def awaits_half(self) -> bool:
        """Return True if half an emoji is held back until the next delta."""
        return bool(self._halves)

    def knows_call(self, choice: int, index: int) -> bool:
        """Return True if a piece of this call can be sent as it is."""
        return not self.renumbers and index < len(self._calls.get(choice, ()))

    def delta(self, raw: bytes, choice: int) -> tuple[Json, bool]:
        """Return the fields of a delta, and True if they differ from those received."""
        try:
            fields, is_changed = _decode_object(raw), False
        except (msgspec.DecodeError, UnicodeDecodeError):
            value = decode_json(raw)
            fields, is_changed = (value if isinstance(value, dict) else {"content": value}), True
        if fields is None:
            return {}, True
        is_changed |= self._message(fields, choice)
        calls = fields.get("tool_calls")
        if calls is not None:
            repaired = self._pieces(calls, choice)
            if repaired != calls:
                fields["tool_calls"], is_changed = repaired, True
        call = fields.get("function_call")
        if call is not None:
            repaired_call = self._function(call, (choice, "function_call", 0))
            if repaired_call != call:
                fields["function_call"], is_changed = repaired_call, True
        return fields, is_changed

    def message(self, raw: bytes, choice: int) -> Json:
        """Return the fields of a whole message."""
        fields = self.delta(raw, choice)[0]
        self.delta_of_rest(self.rest(choice), fields)
        fields["role"] = "assistant"
        fields.setdefault("content", None)
        for call_fields in fields.get("tool_calls") or ():
            del call_fields["index"]
        if not fields.get("tool_calls"):
            fields.pop("tool_calls", None)
        if fields.get("function_call") is None:
            fields.pop("function_call", None)
        else:
            fields["function_call"] = {"name": "", "arguments": "", **fields["function_call"]}
        return fields

    def rest(self, choice: int | None = None) -> list[tuple[tuple[int, str, int], str]]:
        """Return and forget the halves that found no other half, of one choice or of all."""
        keys = [key for key in self._halves if choice is None or key[0] == choice]
        return [(key, self._halves.pop(key)) for key in keys]

    def delta_of_rest(self, rest: list[tuple[tuple[int, str, int], str]], fields: Json) -> Json:
        """Add U+FFFD to the fields of a delta in place of each of these halves, which belong to its choice."""
        for (_, field, call), half in rest:
            self._append(fields, field, call, clean_text(half))
        return fields

    @staticmethod
    def _append(fields: Json, field: str, call: int, text: str) -> None:
        if field == "tool_calls":
            calls = fields.setdefault("tool_calls", [])
            known = next((found for found in calls if found.get("index") == call), None)
            if known is None:
                calls.append({"index": call, "function": {"arguments": text}})
            else:
                known["function"]["arguments"] = (known["function"].get("arguments") or "") + text
        elif field == "function_call":
            function = fields.setdefault("function_call", {})
            function["arguments"] = (function.get("arguments") or "") + text
        else:
            fields[field] = (fields.get(field) or "") + text

    # ── text ──────────────────────────────────────────────────────────────────────────────────────────────

    def _message(self, fields: Json, choice: int) -> bool:
        """Repair role and texts in place; return True if anything changed."""
        is_changed = False
        if "role" in fields and fields["role"] != "assistant":
            is_changed = True
            if isinstance(fields["role"], str) and fields["role"]:
                fields["role"] = "assistant"
            else:
                del fields["role"]
        content = fields.get("content")
        if content is not None and not isinstance(content, str):
            thoughts = thoughts_of(content)
            if thoughts and not fields.get("reasoning_content"):
                fields["reasoning_content"] = thoughts
            fields["content"], is_changed = text_of(content), True
        for field in _TEXT_FIELDS:
            text = fields.get(field)
            if text is None:
                continue
            if not isinstance(text, str):
                text = text_of(text) or thoughts_of(text)
                is_changed = True
                if text is None:
                    del fields[field]
                    continue
                fields[field] = text
            joined = self._join(text, (choice, field, 0))
            if joined != text:
                fields[field], is_changed = joined, True
        return is_changed

    def _join(self, text: str, key: tuple[int, str, int]) -> str:
        """Return the text without surrogates: pairs are joined, also across pieces; a half at the end is held back."""
        if not self._halves and text.isascii():
            return text
        text = self._halves.pop(key, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._halves[key], text = text[-1], text[:-1]
        return clean_text(text)

    # ── tool calls ────────────────────────────────────────────────────────────────────────────────────────

    def _pieces(self, calls: Any, choice: int) -> list[Json]:
        pieces = objects_of(calls)
        known = self._calls.setdefault(choice, [])
        return [self._piece(piece, place, len(pieces), known, choice) for place, piece in enumerate(pieces)]

    def _piece(self, piece: Json, place: int, count: int, known: list[BegunCall], choice: int) -> Json:
        function = _function_of(piece)
        name, own_id = text_or(function.get("name"), ""), text_or(piece.get("id"), "")
        engine_index = index_or(piece.get("index"), -1)
        index = _find(known, engine_index, own_id, name, place if count > 1 else len(known) - 1)
        repaired = {key: value for key, value in piece.items() if key not in ("custom", "name", "arguments")}
        is_first = index == len(known)
        if is_first:
            suffix = f"{choice}_{index}" if choice else str(index)
            call = BegunCall(engine_index, own_id, own_id or f"{self._call_prefix}_{suffix}", name)
            known.append(call)
            self.renumbers |= engine_index not in (-1, index)
            repaired |= {"id": call.sent_id, "type": "function"}
        else:
            call = known[index]
            call.engine_id = call.engine_id or own_id
            if repaired.get("id") is not None:
                repaired["id"] = call.sent_id
            if repaired.get("type") is not None:
                repaired["type"] = "function"
        repaired["index"] = index
        if is_first or function or piece.get("function") is not None:
            repaired["function"] = self._function(function, (choice, "tool_calls", index), is_first=is_first)
            if not is_first and name:
                # Clients join the names of the pieces, but some engines repeat the name in each.
                if name == call.name:
                    del repaired["function"]["name"]
                call.name = call.name or name
        return repaired

    def _function(self, function: Any, key: tuple[int, str, int], *, is_first: bool = False) -> Json:
        fields = dict(function) if isinstance(function, dict) else {}
        if is_first or fields.get("name") is not None:
            fields["name"] = text_or(fields.get("name"), "")
        arguments = fields.get("arguments")
        if arguments is None:
            arguments = next((fields.pop(name) for name in ("parameters", "input") if fields.get(name)), None)
        if arguments is None and not is_first:
            return fields
        if arguments is None:
            arguments = ""
        elif not isinstance(arguments, str):
            arguments = clean_json(arguments).decode()
        fields["arguments"] = self._join(arguments, key)
        return fields


class BegunCall:
    """A tool call that has begun: the engine's index (-1 for none) and ID, and the ID and name that were sent."""

    __slots__ = ("engine_id", "engine_index", "name", "sent_id")

    def __init__(self, engine_index: int, engine_id: str, sent_id: str, name: str) -> None:
        self.engine_index = engine_index
        self.engine_id = engine_id
        self.sent_id = sent_id
        self.name = name


def _function_of(piece: Json) -> Json:
    """Return the function of a call, also of one without that level, or of a custom tool."""
    function = piece.get("function")
    if isinstance(function, dict):
        return function
    custom = piece.get("custom")
    if isinstance(custom, dict):
        return {"name": custom.get("name"), "arguments": custom.get("input")}
    name = {"name": function} if isinstance(function, str) else {}
    return name | {key: piece[key] for key in ("name", "arguments") if piece.get(key) is not None}


def _find(known: list[BegunCall], engine_index: int, own_id: str, name: str, order: int) -> int:
    """Return the place of the call that a piece belongs to; len(known) if the piece begins a new one.

    By the engine's index; without one by the ID, else by the order. Some engines give every call the index 0: a piece
    with a name and a new ID then begins another call.
    """
    if own_id:
        by_id = next((place for place, call in enumerate(known) if call.engine_id == own_id), None)
        if by_id is not None and engine_index in (-1, known[by_id].engine_index):
            return by_id
    if engine_index >= 0:
        for place in range(len(known) - 1, -1, -1):
            if known[place].engine_index == engine_index:
                is_other = bool(name and own_id and known[place].engine_id) and known[place].engine_id != own_id
                return len(known) if is_other else place
        return len(known)
    if own_id or name:
        return len(known)
    return min(max(order, 0), len(known))


# ── logprobs ──────────────────────────────────────────────────────────────────────────────────────────────


class _Top(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Top]
    bytes: list[int] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None
    refusal: list[_Token] | None = None


class _TextDelta(msgspec.Struct, forbid_unknown_fields=True):
    content: str


class _TextChoice(msgspec.Struct):
    index: int
    delta: _TextDelta
    logprobs: _Logprobs | None
    finish_reason: None


class _TextChunk(msgspec.Struct):
    """Chunk in the documented form, with text and nothing else."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[_TextChoice]
    service_tier: str | None = None
    system_fingerprint: str | None = None
    usage: None = None
    error: Any = None


decode_documented = msgspec.json.Decoder(_TextChunk).decode
_decode_logprobs = msgspec.json.Decoder(_Logprobs | None).decode
#: OpenAI's value for a token that is very unlikely.
_LEAST_LOGPROB = -9999.0


def repair_logprobs(raw: bytes) -> bytes:
    """Return the logprobs of a chat in the documented form; null if they cannot be read."""
    try:
        known = _decode_logprobs(raw)
        if known is None or known.content is not None or known.refusal is not None:
            return raw
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        value = decode_json(raw)
    except ValueError:
        return b"null"
    if not isinstance(value, dict):
        return b"null"
    lists = {key: _tokens(value.get(key)) for key in ("content", "refusal")}
    if lists["content"] is None and isinstance(value.get("tokens"), list):
        lists["content"] = _legacy_tokens(value)
    return b"null" if lists["content"] is None and lists["refusal"] is None else clean_json(lists)


class _TextLogprobs(msgspec.Struct):
    """The four lists of a text completion."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None
    text_offset: list[int] | None = None


_decode_text_logprobs = msgspec.json.Decoder(_TextLogprobs).decode


def repair_text_logprobs(raw: bytes) -> bytes:
    """Return the logprobs of a text completion in its own form or, if that cannot be read, in the form of a chat."""
    try:
        _decode_text_logprobs(raw)
        return raw
    except (msgspec.DecodeError, UnicodeDecodeError):
        return repair_logprobs(raw)


def _tokens(tokens: Any) -> list[Json] | None:
    if not isinstance(tokens, list):
        return None
    return [
        {**_token(token), "top_logprobs": [_token(top) for top in objects_of(token.get("top_logprobs"))]}
        for token in objects_of(tokens)
    ]


def _token(token: Json) -> Json:
    raw, logprob = token.get("bytes"), token.get("logprob")
    is_number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
    is_bytes = isinstance(raw, list) and all(type(byte) is int for byte in raw)
    return {
        "token": text_or(token.get("token"), ""),
        "logprob": float(logprob) if is_number else _LEAST_LOGPROB,  # type: ignore[arg-type]
        "bytes": raw if is_bytes else None,
    }


def _legacy_tokens(logprobs: Json) -> list[Json]:
    """Convert the four lists of a text completion."""
    values = logprobs.get("token_logprobs")
    numbers = values if isinstance(values, list) else []
    return [
        {**_token({"token": token, "logprob": numbers[at] if at < len(numbers) else None}), "top_logprobs": []}
        for at, token in enumerate(logprobs["tokens"])
    ]
