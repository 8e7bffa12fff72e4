"""A deterministic engine for tests and load: it counts, it paces, it never thinks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.inference import ChatRequest

_encode = msgspec.json.Encoder().encode


class FakeAnswer:
    """`tokens` words, one event each, `delay_ms` apart; or one object."""

    def __init__(self, engine: FakeEngine, request: ChatRequest, tokens: int, prompt_tokens: int) -> None:
        self._engine = engine
        self._events = engine.events(request, tokens, prompt_tokens) if request.stream else []
        self._whole = b"" if request.stream else engine.whole(request, tokens, prompt_tokens)
        self._next = 0

    async def next_bytes(self) -> bytes:
        if self._next == len(self._events):
            return b""
        await asyncio.sleep(self._engine.delay_s if self._next else 0)
        self._next += 1
        return self._events[self._next - 1]

    def take(self) -> bytes | None:
        return None

    def listen(self, listener: Callable[[], None] | None) -> bool:
        return False

    async def read(self) -> bytes:
        await asyncio.sleep(self._engine.delay_s)
        return self._whole

    async def close(self) -> None:
        return None


class FakeEngine:
    """Writes `token-0 token-1 …`; a prompt counts one token for each word."""

    complete_chunks = True
    bills_after_cancel = False
    vision = True

    def __init__(self, name: str, entry: EngineEntry) -> None:
        self.name = name
        self.first_token_timeout_s = entry.first_token_timeout_s
        self.total_timeout_s = entry.total_timeout_s
        self.delay_s = entry.delay_ms / 1000
        self._entry = entry

    def why_not_ready(self) -> str | None:
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
        return sum(len(str(message.get("content")).split()) for message in request.messages)

    async def open(self, request: ChatRequest, limit: int) -> FakeAnswer:
        return FakeAnswer(self, request, min(limit, self._entry.tokens), await self.count_prompt(request))

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    def events(self, request: ChatRequest, tokens: int, prompt_tokens: int) -> list[bytes]:
        """The events of a stream, the usage and the end in the last one."""
        deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": f"token-{i} "} for i in range(tokens)]
        events = [self._event([{"index": 0, "delta": d, "logprobs": None, "finish_reason": None}]) for d in deltas]
        last = self._event([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._reason(tokens)}])
        usage = self._event([], _usage(prompt_tokens, tokens))
        return [*events, last + usage + b"data: [DONE]\n\n"]

    def whole(self, request: ChatRequest, tokens: int, prompt_tokens: int) -> bytes:
        """The same as one object."""
        message = {"role": "assistant", "content": "".join(f"token-{i} " for i in range(tokens)), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(tokens)}
        return _encode(self._head("chat.completion", [choice], _usage(prompt_tokens, tokens)))

    def _reason(self, tokens: int) -> str:
        return "stop" if tokens == self._entry.tokens else "length"

    def _event(self, choices: list[dict[str, object]], usage: dict[str, object] | None = None) -> bytes:
        return b"data: " + _encode(self._head("chat.completion.chunk", choices, usage)) + b"\n\n"

    def _head(self, kind: str, choices: list[dict[str, object]], usage: dict[str, object] | None) -> dict[str, object]:
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


def _usage(prompt_tokens: int, tokens: int) -> dict[str, object]:
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
