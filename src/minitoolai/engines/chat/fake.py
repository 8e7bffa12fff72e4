"""A deterministic chat engine for tests and load tests. Equal requests get equal responses.

It responds with numbered words, a call of the first tool, or the simplest JSON that fits the requested schema.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.suppliers import EngineLabel
from minitoolai.core.counting import Tokenizer
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.embeddings import embeddings_as_chat
from minitoolai.engines.concurrency import ConcurrencyLimit

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
#: JSON content is cut into tokens of this many characters.
_TOKEN_LENGTH = 6
_MAX_DEPTH = 16
_MAX_VALUES = 1000
_DIMENSIONS = 64
CALL_ID = "call_fake"


class FakeEngine:
    """Responds with `token-0 token-1 …` and counts one prompt token per word."""

    complete_chunks = True
    token_events = True
    tokenizer: Tokenizer | None = None
    bills_after_cancel = False
    sells_cache = False
    vision = True
    forwards: frozenset[str] = frozenset()
    fetches_images = True
    plain_images = False
    speaks_messages = False
    concurrency: ConcurrencyLimit | None = None

    def __init__(self, name: str, entry: EngineEntry) -> None:
        self.name = name
        self.label = EngineLabel.of(name, entry)
        self.first_token_timeout_s = entry.first_token_timeout_s
        self.total_timeout_s = entry.total_timeout_s
        self.delay_s = entry.delay_ms / 1000
        self._entry = entry

    def why_not_ready(self) -> str | None:
        return None

    def vision_unavailable_reason(self) -> str | None:
        return None

    def context_tokens(self) -> int | None:
        return self._entry.context or None

    def unsupported_field(self, request: ChatRequest) -> str | None:
        return None

    def check_capacity(self) -> None:
        return None

    def is_busy(self) -> bool:
        return False

    async def count_messages(self, request: ChatRequest) -> int:
        return await self.count_prompt(request)

    async def count_prompt(self, request: ChatRequest) -> int:
        if request.prompt is not None or request.embed is not None:
            given = request.prompt if request.embed is None else request.embed
            prompts = given if isinstance(given, list) else [given]
            return sum(len(p.split()) if isinstance(p, str) else len(p) if isinstance(p, list) else 1 for p in prompts)
        return sum(len(str(message.get("content")).split()) for message in request.messages)

    async def open(self, request: ChatRequest, limit: int) -> FakeResponse:
        return FakeResponse(self, request, limit, await self.count_prompt(request))

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    def events(self, request: ChatRequest, limit: int, prompt_tokens: int) -> list[bytes]:
        """Return the events of a stream; the last one also carries the usage and the end marker."""
        content = make_script(request, self._entry.tokens, limit)
        first: Json = {"role": "assistant", "content": "" if content.tool is None else None}
        if content.tool is not None:
            function = {"name": content.tool, "arguments": ""}
            first["tool_calls"] = [{"index": 0, "id": CALL_ID, "type": "function", "function": function}]
        events = [self._delta(request, first)]
        for piece in content.pieces:
            delta: Json = {"content": piece}
            if content.tool is not None:
                delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            events.append(self._delta(request, delta, logprob=logprobs(request, [piece])))
        last = self._delta(request, {}, finish=content.finish_reason)
        usage = self._event([], _usage(prompt_tokens, len(content.pieces) * request.choices))
        return [*events, last + usage + b"data: [DONE]\n\n"]

    def _delta(self, request: ChatRequest, delta: Json, *, logprob: Json | None = None, finish: str = "") -> bytes:
        """Return one event per choice."""
        common = {"delta": delta, "logprobs": logprob, "finish_reason": finish or None}
        return b"".join(self._event([{"index": index, **common}]) for index in range(request.choices))

    def body(self, request: ChatRequest, limit: int, prompt_tokens: int) -> bytes:
        """Return the response as one JSON object."""
        if request.embed is not None:
            head = self._head("list", [], {"prompt_tokens": prompt_tokens})
            return embeddings_as_chat(_encode({**head, "data": vectors(request.embed)}), len(request.embed))
        content = make_script(request, self._entry.tokens, limit)
        text = "".join(content.pieces)
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if content.tool is not None:
            call = {"id": CALL_ID, "type": "function", "function": {"name": content.tool, "arguments": text}}
            message |= {"content": None, "tool_calls": [call]}
        common = {
            "message": message,
            "logprobs": logprobs(request, content.pieces),
            "finish_reason": content.finish_reason,
        }
        choices: list[Json] = [{"index": index, **common} for index in range(request.choices)]
        usage = _usage(prompt_tokens, len(content.pieces) * request.choices)
        return _encode(self._head("chat.completion", choices, usage))

    def _event(self, choices: list[Json], usage: Json | None = None) -> bytes:
        return b"data: " + _encode(self._head("chat.completion.chunk", choices, usage)) + b"\n\n"

    def _head(self, kind: str, choices: list[Json], usage: Json | None) -> Json:
        return {
            "id": "chatcmpl-fake",
            "object": kind,
            "created": 1_700_000_000,
            "model": self._entry.model,
            "service_tier": "default",
            "system_fingerprint": "fp_fake",
            "choices": choices,
            "usage": usage,
        }


class FakeResponse:
    """A stream with one event per token, `delay_ms` apart, or one JSON object."""

    def __init__(self, engine: FakeEngine, request: ChatRequest, limit: int, prompt_tokens: int) -> None:
        self._engine = engine
        self._events = engine.events(request, limit, prompt_tokens) if request.stream else []
        self._body = b"" if request.stream else engine.body(request, limit, prompt_tokens)
        self._next = 0

    async def next_bytes(self) -> bytes:
        if self._next == len(self._events):
            return b""
        await asyncio.sleep(self._engine.delay_s if self._next else 0)
        self._next += 1
        return self._events[self._next - 1]

    def read_nowait(self) -> bytes | None:
        return None

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        return False

    async def read(self) -> bytes:
        await asyncio.sleep(self._engine.delay_s)
        return self._body

    async def close(self) -> None:
        return None


def _usage(prompt_tokens: int, tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


# ── the content of a response ─────────────────────────────────────────────────────────────────────────────────


class Script(msgspec.Struct):
    """The content of a response, one piece per token. With `tool`, the pieces are the arguments for that function."""

    pieces: list[str]
    finish_reason: str
    tool: str | None = None


def make_script(request: ChatRequest, tokens: int, limit: int) -> Script:
    """Return the content for a request, cut off at `limit` tokens; `tokens` is the length of an ordinary response."""
    tool = _tool_to_call(request)
    if tool is not None:
        pieces = _cut(_encode(sample(tool.get("parameters") or {})).decode())
        return Script(pieces[:limit], "tool_calls" if len(pieces) <= limit else "length", tool["name"])
    form = request.fields.get("response_format") or {}
    if form.get("type") in ("json_object", "json_schema"):
        schema = (form.get("json_schema") or {}).get("schema") or {"const": {"token-0": "token-1"}}
        pieces = _cut(_encode(sample(schema)).decode())
    else:
        pieces = _until_stop([f"token-{i} " for i in range(tokens)], request.fields.get("stop"))
    return Script(pieces[:limit], "stop" if len(pieces) <= limit else "length")


def _tool_to_call(request: ChatRequest) -> Json | None:
    """Return the requested function, else the first one, or None once a tool has responded."""
    choice = request.fields.get("tool_choice") or "auto"
    functions = [tool["function"] for tool in request.fields.get("tools") or () if tool["type"] == "function"]
    if choice == "none" or not functions:
        return None
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return next((function for function in functions if function["name"] == name), None)
    has_responded = request.messages[-1]["role"] == "tool"
    return None if choice == "auto" and has_responded else functions[0]


def _cut(text: str) -> list[str]:
    return [text[at : at + _TOKEN_LENGTH] for at in range(0, len(text), _TOKEN_LENGTH)]


def _until_stop(pieces: list[str], stop: Any) -> list[str]:
    stops = [text for text in (stop if isinstance(stop, list) else [stop]) if text]
    text = "".join(pieces)
    places = [place for place in map(text.find, stops) if place >= 0]
    if not places:
        return pieces
    return re.findall(r"\S+ ?|\s+", text[: min(places)])


def sample(schema: Any) -> Any:
    """Return the simplest value that fits a JSON schema, with null where it is too deep, too large or unsupported."""
    return _Sampler(schema).value(schema, 0)


class _Sampler:
    """One traversal of one schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = _MAX_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > _MAX_DEPTH or self._left < 0:
            return None
        if isinstance(schema.get("$ref"), str):
            return self.value(_resolve_reference(schema["$ref"], self._root), depth + 1)
        if "const" in schema:
            return schema["const"]
        for key in ("enum", "anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0] if key == "enum" else self.value(schema[key][0], depth + 1)
        kind = schema.get("type", "object")
        return self._simplest(kind[0] if isinstance(kind, list) and kind else kind, schema, depth)

    def _simplest(self, kind: Any, schema: Json, depth: int) -> Any:
        if kind == "object":
            properties = schema.get("properties")
            inner = properties.items() if isinstance(properties, dict) else ()
            return {name: self.value(schema, depth + 1) for name, schema in inner}
        if kind == "array":
            least = schema.get("minItems")
            count = min(max(least, 1), 8) if isinstance(least, int) else 1
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind in ("integer", "number"):
            return schema.get("minimum", 1)
        return {"string": "token-0", "boolean": True}.get(kind) if isinstance(kind, str) else None


def _resolve_reference(reference: str, root: Any) -> Any:
    target = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        target = target.get(part, {}) if isinstance(target, dict) else {}
    return target


def vectors(texts: list[Any]) -> list[Json]:
    """Return a unit vector for each text. Equal texts get equal vectors."""
    places = [zlib.crc32(_encode(text)) % _DIMENSIONS for text in texts]
    return [
        {"index": index, "embedding": [float(at == place) for at in range(_DIMENSIONS)]}
        for index, place in enumerate(places)
    ]


def logprobs(request: ChatRequest, pieces: list[str]) -> Json | None:
    """Return constant log probabilities for each piece if the request asks for them."""
    if not request.fields.get("logprobs"):
        return None
    others = int(request.fields.get("top_logprobs") or 0)
    return {"content": [_token_logprob(piece, others) for piece in pieces], "refusal": None}


def _token_logprob(piece: str, others: int) -> Json:
    token = {"token": piece, "logprob": -0.25, "bytes": list(piece.encode())}
    return {**token, "top_logprobs": [token] * min(others, 1)}
