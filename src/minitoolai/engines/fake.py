"""A deterministic engine for tests and load: it counts, it paces, it never thinks. fake_words.py says what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.embeddings import chat_of_embeddings
from minitoolai.engines.fake_words import CALL_ID, Json, logprobs, script, vectors

_encode = msgspec.json.Encoder().encode


class FakeAnswer:
    """`tokens` words, one event each, `delay_ms` apart; or one object."""

    def __init__(self, engine: FakeEngine, request: ChatRequest, limit: int, prompt_tokens: int) -> None:
        self._engine = engine
        self._events = engine.events(request, limit, prompt_tokens) if request.stream else []
        self._whole = b"" if request.stream else engine.whole(request, limit, prompt_tokens)
        self._next = 0

    async def next_bytes(self) -> bytes:
        if self._next == len(self._events):
            return b""
        await asyncio.sleep(self._engine.delay_s if self._next else 0)
        self._next += 1
        return self._events[self._next - 1]

    def take(self) -> bytes | None:
        return None

    def listen(self, listener: Callable[[], None] | None, sink: Callable[[bytes], None] | None = None) -> bool:
        return False

    async def read(self) -> bytes:
        await asyncio.sleep(self._engine.delay_s)
        return self._whole

    async def close(self) -> None:
        return None


class FakeEngine:
    """Writes `token-0 token-1 …`; a prompt counts one token for each word."""

    complete_chunks = True
    token_events = True
    bills_after_cancel = False
    vision = True
    fetches_images = True
    plain_images = False

    def __init__(self, name: str, entry: EngineEntry) -> None:
        self.name = name
        self.first_token_timeout_s = entry.first_token_timeout_s
        self.total_timeout_s = entry.total_timeout_s
        self.delay_s = entry.delay_ms / 1000
        self._entry = entry

    def why_not_ready(self) -> str | None:
        return None

    def why_blind(self) -> str | None:
        return None

    def context_tokens(self) -> int | None:
        return self._entry.context or None

    def unsupported_field(self, request: ChatRequest) -> str | None:
        return None

    def check_room(self) -> None:
        return None

    def is_busy(self) -> bool:
        return False

    async def count_prompt(self, request: ChatRequest) -> int:
        if request.prompt is not None or request.embed is not None:
            given = request.prompt if request.embed is None else request.embed
            prompts = given if isinstance(given, list) else [given]
            return sum(len(p.split()) if isinstance(p, str) else len(p) if isinstance(p, list) else 1 for p in prompts)
        return sum(len(str(message.get("content")).split()) for message in request.messages)

    async def open(self, request: ChatRequest, limit: int) -> FakeAnswer:
        return FakeAnswer(self, request, limit, await self.count_prompt(request))

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    def events(self, request: ChatRequest, limit: int, prompt_tokens: int) -> list[bytes]:
        """The events of a stream, the usage and the end in the last one."""
        said = script(request, self._entry.tokens, limit)
        first: Json = {"role": "assistant", "content": "" if said.tool is None else None}
        if said.tool is not None:
            function = {"name": said.tool, "arguments": ""}
            first["tool_calls"] = [{"index": 0, "id": CALL_ID, "type": "function", "function": function}]
        events = [self._delta(request, first)]
        for piece in said.pieces:
            delta: Json = {"content": piece}
            if said.tool is not None:
                delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            events.append(self._delta(request, delta, certain=logprobs(request, [piece])))
        last = self._delta(request, {}, finish=said.finish_reason)
        usage = self._event([], _usage(prompt_tokens, len(said.pieces) * request.choices))
        return [*events, last + usage + b"data: [DONE]\n\n"]

    def _delta(self, request: ChatRequest, delta: Json, *, certain: Json | None = None, finish: str = "") -> bytes:
        """One event for each choice."""
        common = {"delta": delta, "logprobs": certain, "finish_reason": finish or None}
        return b"".join(self._event([{"index": index, **common}]) for index in range(request.choices))

    def whole(self, request: ChatRequest, limit: int, prompt_tokens: int) -> bytes:
        """The same as one object."""
        if request.embed is not None:
            head = self._head("list", [], {"prompt_tokens": prompt_tokens})
            return chat_of_embeddings(_encode({**head, "data": vectors(request.embed)}))
        said = script(request, self._entry.tokens, limit)
        text = "".join(said.pieces)
        message: Json = {"role": "assistant", "content": text, "refusal": None}
        if said.tool is not None:
            call = {"id": CALL_ID, "type": "function", "function": {"name": said.tool, "arguments": text}}
            message |= {"content": None, "tool_calls": [call]}
        common = {"message": message, "logprobs": logprobs(request, said.pieces), "finish_reason": said.finish_reason}
        choices: list[Json] = [{"index": index, **common} for index in range(request.choices)]
        usage = _usage(prompt_tokens, len(said.pieces) * request.choices)
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
