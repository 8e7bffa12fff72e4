"""Every recorded answer of an upstream, four ways: chat and responses, stream and whole.

What leaves has the documented form, as OpenAI's own package knows it, however the bytes are cut.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from minitoolai.chat.completion import NormalizedCompletion, normalize_completion
from minitoolai.chat.dialects.completions import CompletionsTranslator
from minitoolai.chat.dialects.responses import ResponsesTranslator
from minitoolai.chat.dialects.responses_request import parse_response
from minitoolai.chat.stream.chunks import DONE
from minitoolai.chat.stream.normalizer import ChunkNormalizer
from minitoolai.core.counting import PromptCount
from minitoolai.core.errors import ServiceError
from minitoolai.core.inference import Usage
from minitoolai.engines.chat.failures import upstream_failure
from tests.support.strict import Completion, Response, check, check_completion, check_event, check_texts

FOLDER = Path(__file__).parent / "corpus"
FILES = sorted(path.stem for path in FOLDER.glob("*.txt"))
RESPONSES = parse_response(b'{"model":"requested","input":"hi","stream":true}')

Json = dict[str, Any]


def read(name: str) -> tuple[Json, bytes]:
    expected, _, raw = (FOLDER / f"{name}.txt").read_bytes().partition(b"\n")
    return json.loads(expected), raw


def pieces_of(raw: bytes) -> Iterator[list[bytes]]:
    """Yield the bytes in one piece, one by one, by events and at random places."""
    yield [raw]
    yield [raw[at : at + 1] for at in range(len(raw))]
    yield [event + b"\n\n" for event in raw.split(b"\n\n")]
    for seed in range(3):
        places = sorted(random.Random(seed).choices(range(len(raw) + 1), k=6))
        yield [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]


def streamed(pieces: list[bytes], **options: Any) -> tuple[bytes, ChunkNormalizer]:
    """Return what is sent for a stream, as chat/run.py asks for it."""
    events = ChunkNormalizer(
        **{"forwards": False, "include_usage": True, **options},
        name="chatcmpl-made",
        created_s=1_800_000_000,
        model="requested",
        engine="up",
    )
    sent = b""
    for piece in pieces:
        if events.done or events.error is not None:
            break
        block = events.match_template(piece) if piece else None
        sent += events.feed(piece) if block is None else block
    if not events.done and events.error is None:
        sent += events.end()
    return sent, events


def chunks(sent: bytes) -> list[Json]:
    assert not sent or sent.endswith(b"\n\n")
    events = [event for event in sent.split(b"\n\n") if event]
    assert all(event.startswith(b"data: {") for event in events)
    return [json.loads(event[6:]) for event in events]


def outcome(sent: list[Json]) -> Json:
    """Return what the chunks add up to, for a client that follows OpenAI's documentation."""
    found: Json = {"text": "", "reasoning": "", "refusal": "", "details": "", "calls": [], "function": ["", ""]}
    for choice in [choice for chunk in sent for choice in chunk["choices"]]:
        delta = choice["delta"]
        found["text"] += delta.get("content") or ""
        found["refusal"] += delta.get("refusal") or ""
        found["reasoning"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
        for part in delta.get("reasoning_details") or ():
            found["details"] += part.get("text") or part.get("summary") or ""
        for call in delta.get("tool_calls") or ():
            if call["index"] == len(found["calls"]):
                found["calls"].append([call["id"], call["function"]["name"], ""])
            known = found["calls"][call["index"]]
            assert call.get("id") in (None, known[0])
            known[2] += (call.get("function") or {}).get("arguments") or ""
        if function := delta.get("function_call"):
            found["function"][0] += function.get("name") or ""
            found["function"][1] += function.get("arguments") or ""
        found["finish"] = choice["finish_reason"] or found.get("finish")
    return found


def compare(found: Json, expected: Json) -> None:
    assert found["text"] == expected.get("text", "")
    assert found["refusal"] == expected.get("refusal", "")
    assert found["function"] == expected.get("function", ["", ""])
    if "details" in expected:
        assert found["details"] == expected["details"]
    else:
        assert found["reasoning"] == expected.get("reasoning", "")
    calls = expected.get("calls", [])
    assert [call[1:] for call in found["calls"]] == [call[1:] for call in calls]
    for (call_id, *_), (wanted, *_) in zip(found["calls"], calls, strict=True):
        assert call_id == wanted or (wanted is None and call_id.startswith("call_"))
    if "error" not in expected:
        assert found["finish"] == expected["finish"]


def check_usage(usage: Usage | None, expected: Json) -> None:
    if "error" not in expected:
        found = None if usage is None else [usage.prompt_tokens, usage.completion_tokens]
        assert found == expected.get("usage")


def streams(name: str) -> Iterator[tuple[Json, list[Json], ChunkNormalizer, bool]]:
    expected, raw = read(name)
    if expected.get("status", 200) == 200:
        for number, pieces in enumerate(pieces_of(raw)):
            for forwards in (True, False) if number == 0 else (number % 2 == 0,):
                sent, events = streamed(pieces, forwards=forwards)
                yield expected, chunks(sent), events, forwards


def test_the_corpus_is_large_and_has_many_servers() -> None:
    assert len(FILES) >= 150
    assert len({name.split("-")[0] for name in FILES}) >= 25


@pytest.mark.parametrize("name", FILES)
def test_chat_stream(name: str) -> None:
    for expected, sent, events, forwards in streams(name):
        compare(outcome(sent), expected)
        check_usage(events.usage, expected)
        assert (events.error.code if events.error else None) == expected.get("error")
        assert events.done == ("error" not in expected)
        for chunk in sent:
            # An engine with complete chunks may have fields of its own.
            assert ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True).model
            if not forwards:
                check(ChatCompletionChunk, chunk)
        assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in sent}) <= 1
        assert all(chunk["id"] and chunk["object"] == "chat.completion.chunk" for chunk in sent)
        final = events.final_events(events.usage or Usage(1, 1))
        assert check(ChatCompletionChunk, chunks(final.removesuffix(DONE))[0]).model


@pytest.mark.parametrize("name", FILES)
def test_responses_stream(name: str) -> None:
    expected, raw = read(name)
    if expected.get("status", 200) != 200:
        return
    for pieces in ([raw], [event + b"\n\n" for event in raw.split(b"\n\n")]):
        translator = ResponsesTranslator("resp_made", RESPONSES, 1_800_000_000)
        sent, events = streamed(pieces)
        told = translator.events(sent) if sent else b""
        if events.error is not None:
            told += translator.stream.failure(events.error.message, "server_error")
        else:
            told += translator.final_events(events.final_events(events.usage or Usage(1, 1)))
        found = [check_event(json.loads(event.partition(b"\ndata: ")[2])) for event in told.split(b"\n\n") if event]
        last = found[-1].response
        assert last.status == ("failed" if "error" in expected else status_of(expected))
        check_items(last, expected)
        text = "".join(event.delta for event in found if event.type == "response.output_text.delta")
        assert text == expected.get("text", "")


def status_of(expected: Json) -> str:
    return "incomplete" if expected["finish"] in ("length", "content_filter") else "completed"


def check_items(response: Any, expected: Json) -> None:
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    reasoning = [part.text for item in response.output if item.type == "reasoning" for part in item.content]
    calls = [[item.name, item.arguments] for item in response.output if item.type == "function_call"]
    assert "".join(part.text for part in parts if part.type == "output_text") == expected.get("text", "")
    assert "".join(part.refusal for part in parts if part.type == "refusal") == expected.get("refusal", "")
    assert "".join(reasoning) == expected.get("reasoning", expected.get("details", ""))
    assert calls == [call[1:] for call in expected.get("calls", [])] + [
        call for call in [expected.get("function")] if call is not None
    ]


def whole(raw: bytes, *, forwards: bool) -> NormalizedCompletion:
    return normalize_completion(
        raw,
        forwards=forwards,
        name="gen-made",
        created_s=1_800_000_000,
        prompt=PromptCount(7),
        model="requested",
        engine="up",
    )


@pytest.mark.parametrize("name", FILES)
def test_chat_whole_and_responses_whole(name: str) -> None:
    expected, raw = read(name)
    if expected.get("status", 200) != 200:
        return
    for forwards in (True, False):
        if "error" in expected:
            with pytest.raises(ServiceError) as failure:
                whole(raw, forwards=forwards)
            assert failure.value.code == expected["error"]
            continue
        found = whole(raw, forwards=forwards)
        # An engine with complete chunks may have fields of its own.
        completion = ChatCompletion.model_validate_json(found.body, strict=True)
        if not forwards:
            check_completion(json.loads(found.body))
        assert completion.model
        assert completion.id
        (choice,) = completion.choices
        message = {**json.loads(found.body)["choices"][0]["message"]}
        for index, call in enumerate(message.get("tool_calls") or ()):
            call["index"] = index
        chunk = {"choices": [{"delta": message, "finish_reason": choice.finish_reason}]}
        compare(outcome([chunk]), expected)
        assert found.is_estimated == ("usage" not in expected)
        if "usage" in expected:
            check_usage(found.usage, expected)
        response = json.loads(ResponsesTranslator("resp_made", RESPONSES, 1_800_000_000).completion(found.body))
        check_items(check(Response, response), expected)
        assert response["status"] == status_of(expected)


@pytest.mark.parametrize("name", FILES)
def test_text_completions(name: str) -> None:
    expected, raw = read(name)
    if expected.get("status", 200) != 200 or "error" in expected:
        return
    translator = CompletionsTranslator("cmpl-made")
    sent, events = streamed([raw])
    told = translator.events(sent) + translator.final_events(events.final_events(events.usage or Usage(1, 1)))
    data = [event[6:] for event in told.split(b"\n\n") if event]
    found = check_texts([json.loads(event) if event != b"[DONE]" else "[DONE]" for event in data])
    assert "".join(choice.text for chunk in found for choice in chunk.choices) == expected.get("text", "")
    body = CompletionsTranslator("cmpl-made").completion(whole(raw, forwards=False).body)
    assert check(Completion, json.loads(body)).choices[0].text == expected.get("text", "")


@pytest.mark.parametrize("name", [name for name in FILES if read(name)[0].get("status", 200) != 200])
def test_error_response(name: str) -> None:
    expected, raw = read(name)
    assert upstream_failure(expected["status"], None, raw, "up").code == expected["error"]
