"""Behaviours of a stand-in upstream: good ones, bad ones, and those of real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from tests.support.upstream import Behaviour, Exchange

MODEL = "standin-2026-01-31"
WORDS = ("Saturn ", "has ", "the ", "most ", "moons. ")
#: The prompt tokens that the stand-in reports for every request.
PROMPT_TOKENS = 7


def usage(completion_tokens: int) -> dict[str, Any]:
    """Return a usage object as minimal servers send it."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion_tokens,
        "total_tokens": PROMPT_TOKENS + completion_tokens,
    }


def chunk(delta: dict[str, Any], *, finish: str | None = None, lean: bool = False) -> dict[str, Any]:
    """Return a chunk with every documented field or, if `lean`, with the minimum that a client can read."""
    if lean:
        return {"choices": [{"delta": delta, "finish_reason": finish} if finish else {"delta": delta}], "model": MODEL}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**head("chat.completion.chunk"), "choices": [choice], "usage": None}


def head(kind: str) -> dict[str, Any]:
    """Return the fields that all chunks share."""
    return {
        "id": "chatcmpl-0a1b2c3d4e5f",
        "object": kind,
        "created": 1_767_225_600,
        "model": MODEL,
        "service_tier": "default",
        "system_fingerprint": "fp_0a1b2c3d4e",
    }


def answer(
    words: Sequence[str] = WORDS,
    *,
    delay_s: float = 0.0,
    with_usage: bool = True,
    done: bool = True,
    lean: bool = False,
    newline: str = "\n",
) -> Behaviour:
    """Respond with a stream or one object, as requested. The flags omit what some servers omit."""

    async def behave(exchange: Exchange) -> None:
        if not exchange.body.get("stream"):
            exchange.answer(200, completion(words, with_usage=with_usage, lean=lean))
            return
        exchange.begin()
        exchange.event(chunk({"role": "assistant", "content": ""}, lean=lean), newline=newline)
        for word in words:
            if delay_s:
                await asyncio.sleep(delay_s)
            if exchange.gone.is_set():
                return
            exchange.event(chunk({"content": word}, lean=lean), newline=newline)
        exchange.event(chunk({}, finish="stop", lean=lean), newline=newline)
        if with_usage:
            exchange.event(
                {**head("chat.completion.chunk"), "choices": [], "usage": usage(len(words))}, newline=newline
            )
        if done:
            exchange.event("[DONE]", newline=newline)
        exchange.end()

    return behave


def deltas(*said: dict[str, Any], finish: str = "stop") -> Behaviour:
    """Respond with a stream of exactly these deltas."""

    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        for delta in said:
            exchange.event(chunk(delta))
        exchange.event(chunk({}, finish=finish))
        exchange.event({**head("chat.completion.chunk"), "choices": [], "usage": usage(len(said))})
        exchange.event("[DONE]")
        exchange.end()

    return behave


def first(number: int, *said: dict[str, Any], choices: int = 1) -> Behaviour:
    """Send the first `number` events of a stream with a role and these deltas, for each choice; then hang."""
    everything = [{"role": "assistant", "content": ""}, *said]

    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        for delta in everything[:number]:
            event = chunk(delta)
            event["choices"] = [{**event["choices"][0], "index": index} for index in range(choices)]
            exchange.event(event)
        await exchange.hang()

    return behave


def counting(told: dict[str, Any] | None, *said: dict[str, Any], before: dict[str, Any] | None = None) -> Behaviour:
    """Send these deltas and a usage in the last chunk, or one message. `before`: another usage sent before it."""

    async def behave(exchange: Exchange) -> None:
        if not exchange.body.get("stream"):
            message = {"role": "assistant", "content": None}
            for delta in said:
                message |= {name: (message.get(name) or "") + text for name, text in delta.items()}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            exchange.answer(200, {**head("chat.completion"), "choices": [choice], "usage": told})
            return
        exchange.begin()
        for delta in said:
            exchange.event(chunk(delta))
        exchange.event(chunk({}, finish="stop"))
        for one in (before, told):
            if one is not None:
                exchange.event({**head("chat.completion.chunk"), "choices": [], "usage": one})
        exchange.event("[DONE]")
        exchange.end()

    return behave


def text(words: Sequence[str], *, fault: dict[str, Any] | None = None, told: dict[str, Any] | None = None) -> Behaviour:
    """Respond like `/completions`, with a stream or one object; `fault` replaces the end of a stream.

    `told`: the usage, if it is not one token per word.
    """
    told = told or usage(len(words))

    async def behave(exchange: Exchange) -> None:
        def piece(said: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
            choice = {"text": said, "index": 0, "logprobs": None, "finish_reason": finish}
            return {**head("text_completion"), "choices": [choice], **more}

        if not exchange.body.get("stream"):
            exchange.answer(200, piece("".join(words), "stop", usage=told))
            return
        exchange.begin()
        for word in words:
            exchange.event(piece(word))
        exchange.event(fault or piece("", "stop"))
        if fault is None:
            exchange.event({**head("text_completion"), "choices": [], "usage": told})
            exchange.event("[DONE]")
        exchange.end()

    return behave


def completion(words: Sequence[str], *, with_usage: bool = True, lean: bool = False) -> dict[str, Any]:
    """Return the response as one object."""
    message = {"role": "assistant", "content": "".join(words)}
    body: dict[str, Any] = {"model": MODEL} if lean else head("chat.completion")
    body["choices"] = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    if with_usage:
        body["usage"] = usage(len(words))
    return body


def refuse(status: int, message: str = "no, thank you", **headers: str) -> Behaviour:
    """Respond with an error before anything else is written."""

    async def behave(exchange: Exchange) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": "messages", "code": None}
        exchange.answer(status, {"error": error}, **headers)

    return behave


async def hang_before_head(exchange: Exchange) -> None:
    """Accept, read, and never respond."""
    await exchange.hang()


async def hang_before_token(exchange: Exchange) -> None:
    """Send a head and a role, and then nothing."""
    exchange.begin()
    await exchange.hang()


def break_off(how: str, words: Sequence[str] = WORDS, *, spaced: bool = False) -> Behaviour:
    """Send some words, then `hang`, `reset`, `close` (in the middle of the body), `end` it, or send an `error`."""

    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        for word in words:
            exchange.event(chunk({"content": word}), spaced=spaced)
        # The data must be sent before the connection is cut.
        await asyncio.sleep(0.2)
        if how == "hang":
            await exchange.hang()
        elif how == "reset":
            exchange.reset()
        elif how == "close":
            exchange.close()
        elif how == "end":
            exchange.end()
        else:
            exchange.event({"error": {"message": "the GPU fell off", "type": "server_error", "code": 500}})
            exchange.end()

    return behave


def raw(data: bytes) -> Behaviour:
    """Send these raw bytes and close the connection."""

    async def behave(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.close()

    return behave


def body(data: bytes) -> Behaviour:
    """Send these bytes as a well-formed 200."""

    async def behave(exchange: Exchange) -> None:
        exchange.answer(200, data, content_type="text/event-stream")

    return behave


def json_body(value: dict[str, Any]) -> Behaviour:
    """Send this object as a 200, also where a stream was requested."""

    async def behave(exchange: Exchange) -> None:
        exchange.answer(200, value)

    return behave


async def drip(exchange: Exchange) -> None:
    """Send a good stream, one byte at a time, so that every event arrives in pieces."""
    exchange.begin()
    events = [json.dumps(chunk({"content": word}), ensure_ascii=False) for word in ("Ätna ", "雪 ", "🌋")]
    events += [json.dumps({**head("chat.completion.chunk"), "choices": [], "usage": usage(3)}), "[DONE]"]
    for byte in "".join(f"data: {event}\n\n" for event in events).encode():
        exchange.write(bytes([byte]))
        await asyncio.sleep(0.0002)
    exchange.end()
