"""What is stored of a body: text of every format of streams, parameters, never a file."""

from __future__ import annotations

import base64
import json

import pytest

from minitoolai.accounts.request_bodies import MAX_BODY_BYTES
from minitoolai.http.exchanges import MAX_KEPT_BYTES, Copy, as_text, stream_text, without_media

PICTURE = base64.b64encode(bytes(range(256)) * 4).decode()


def events(*values: object) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values) + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (
            events(
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"index": 0, "delta": {"content": "Hello "}}]},
                {"choices": [{"index": 0, "delta": {"content": "world"}}], "usage": {"prompt_tokens": 1}},
            ),
            "Hello world",
        ),
        (
            b"event: content_block_delta\n"
            + events({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}),
            "Hello",
        ),
        (events({"type": "response.output_text.delta", "delta": "Hel"}, {"type": "x", "delta": None}), "Hel"),
        (events({"type": "transcript.text.delta", "delta": "Spoken"}), "Spoken"),
        (events({"choices": [{"index": 0, "text": "legacy"}]}), "legacy"),
    ],
)
def test_the_text_of_each_format_of_streams(stream: bytes, text: str) -> None:
    assert stream_text(stream) == text


def test_choices_reasoning_and_tool_calls_stay_apart() -> None:
    call = {"index": 0, "function": {"name": "search", "arguments": '{"q"'}}
    more = {"index": 0, "function": {"arguments": ': "tea"}'}}
    stream = events(
        {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]},
        {"choices": [{"index": 0, "delta": {"content": "A"}}, {"index": 1, "delta": {"content": "B"}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [more]}}]},
    )
    assert json.loads(stream_text(stream)) == {
        "reasoning_content": "Hm", "text": "A", "text of choice 1": "B", "tool call 0": 'search{"q": "tea"}',
    }  # fmt: skip


@pytest.mark.parametrize(
    "stream", [b"", b"data: {broken\n\n", b"data: []\n\n", events({"choices": None}, {"choices": [3]})]
)
def test_a_stream_that_is_none_is_stored_as_it_is(stream: bytes) -> None:
    assert stream_text(stream) == stream.decode()


def test_files_in_json_are_left_out() -> None:
    body = {
        "messages": [
            {"content": [{"image_url": {"url": f"data:image/png;base64,{PICTURE}"}}, {"text": "what is it?"}]}
        ],
        "input_audio": {"data": PICTURE},
        "prompt": "a" * 200 + " house",
        "note": "data: short",
        "words": "no file " * 100,
    }
    stored = as_text(json.dumps(body).encode(), 1).text
    assert PICTURE[:100] not in stored
    kept = json.loads(stored)
    assert kept["messages"][0]["content"][1] == {"text": "what is it?"}
    assert kept["input_audio"] == {"data": f"[{len(PICTURE)} characters of a file, not stored]"}
    assert (kept["prompt"], kept["note"], kept["words"]) == (body["prompt"], body["note"], body["words"])
    assert without_media(7) == 7


def test_an_endless_body_is_copied_up_to_a_limit_and_counted() -> None:
    copy = Copy()
    for _ in range(10):
        copy.add(bytes(1024 * 1024))
    assert copy.size == 10 * 1024 * 1024
    assert sum(map(len, copy.parts)) == MAX_KEPT_BYTES
    body = as_text(b"\xff\xfe" + b"x" * 100_000, 200_000)
    assert (body.size, body.is_cut) == (200_000, True)
    assert len(body.text.encode()) <= MAX_BODY_BYTES
