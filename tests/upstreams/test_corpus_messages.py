"""Every recorded answer of an upstream through `/v1/messages`, streamed and whole, as Anthropic's package knows it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.dialects.messages_stream import MessageStream, content_of, message_object, stop_reason
from minitoolai.chat.stream.decoding import read_usage
from minitoolai.core.errors import ServiceError
from minitoolai.core.inference import Usage
from minitoolai.engines.chat.failures import upstream_failure
from minitoolai.http.errors import MESSAGES_PATHS, error_body, last_event, status_of
from tests.support.claude import check_error, check_message, read_stream
from tests.upstreams.test_corpus import FILES, Json, chunks, pieces_of, read, streamed, whole

ANSWERS = [name for name in FILES if read(name)[0].get("status", 200) == 200]


def translated(pieces: list[bytes]) -> tuple[list[Any], ServiceError | None]:
    """Return the checked events for a stream."""
    sent, events = streamed(pieces)
    stream = MessageStream("msg_1", "requested", {}, 7)
    told = b"".join([stream.chunk(chunk) for chunk in chunks(sent)])
    if events.error is not None:
        told += last_event(events.error, MESSAGES_PATHS)
    else:
        told += stream.final_events(events.usage or Usage(1, 1))
    return read_stream(told.decode()), events.error


def summed(found: list[Any]) -> Json:
    """Return what the events add up to: text, thinking, and each call with its arguments as they were sent."""
    text: Json = {"text": "", "thinking": ""}
    calls: list[list[str]] = []
    for event in found:
        if isinstance(event, dict):
            continue
        if event.type == "content_block_start" and event.content_block.type == "tool_use":
            calls.append([event.content_block.name, ""])
        elif event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            calls[-1][1] += event.delta.partial_json
        elif event.type == "content_block_delta" and event.delta.type != "signature_delta":
            field = event.delta.type.removesuffix("_delta")
            text[field] += getattr(event.delta, field)
    return {**text, "calls": calls}


def expected_calls(expected: Json) -> list[list[str]]:
    legacy = [expected["function"]] if "function" in expected else []
    return [call[1:] for call in expected.get("calls", [])] + legacy


@pytest.mark.parametrize("name", ANSWERS)
def test_stream(name: str) -> None:
    expected, raw = read(name)
    for number, pieces in enumerate(pieces_of(raw)):
        if number in (1, 3):
            # Byte by byte is the affair of the normalizer.
            continue
        found, error = translated(pieces)
        assert (error.code if error else None) == expected.get("error")
        sums = summed(found)
        assert sums["text"] == expected.get("text", "") + expected.get("refusal", "")
        assert sums["thinking"] == expected.get("reasoning", expected.get("details", ""))
        assert sums["calls"] == expected_calls(expected)
        if error is None:
            assert found[-2].delta.stop_reason == stop_reason(expected["finish"])
        else:
            assert found[-1]["type"] == "error"


@pytest.mark.parametrize("name", ANSWERS)
def test_whole(name: str) -> None:
    expected, raw = read(name)
    if "error" in expected:
        with pytest.raises(ServiceError) as failure:
            whole(raw, forwards=False)
        check_error(json.loads(error_body(failure.value, MESSAGES_PATHS)))
        return
    completion = json.loads(whole(raw, forwards=False).body)
    choice, usage = completion["choices"][0], read_usage(completion["usage"])
    assert usage is not None
    reason = stop_reason(choice["finish_reason"])
    message = check_message(message_object("msg_1", "m", content_of(choice["message"], "msg_1", {}), reason, usage))
    text = "".join(block.text for block in message.content if block.type == "text")
    assert text == expected.get("text", "") + expected.get("refusal", "")
    called = [block.name for block in message.content if block.type == "tool_use"]
    assert called == [name for name, _ in expected_calls(expected)]
    read_tokens, written = message.usage.cache_read_input_tokens or 0, message.usage.cache_creation_input_tokens or 0
    assert message.usage.input_tokens + read_tokens + written == usage.prompt_tokens


@pytest.mark.parametrize("name", [name for name in FILES if name not in ANSWERS])
def test_error_response(name: str) -> None:
    expected, raw = read(name)
    failure = upstream_failure(expected["status"], None, raw, "up")
    kind, _ = check_error(json.loads(error_body(failure, MESSAGES_PATHS)))
    assert (status_of(failure, MESSAGES_PATHS) < 500) == (
        kind not in ("api_error", "overloaded_error", "timeout_error")
    )
