"""Tests of responses in Anthropic's format that pass through: what leaves is what came, and everything is counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.stream.chunks import Chunk
from minitoolai.chat.stream.passthrough import MessagesPassthrough, check_message, events_of, messages_usage
from minitoolai.core.counting import PromptCount
from minitoolai.core.errors import EngineBroken, EngineError, Overloaded, ServiceError
from minitoolai.core.inference import TokenDetails, Usage
from tests.support import claude
from tests.support.claude import INPUT, READ, SIGNATURE, WRITTEN

Json = dict[str, Any]
THOUGHT = {"type": "thinking", "thinking": "Which one?", "signature": SIGNATURE}
TEXT = {"type": "text", "text": "Saturn has the most moons."}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a"}}
CACHED = claude.usage(40, read=READ, written=WRITTEN, for_an_hour=400)
PROMPT = INPUT + READ + WRITTEN


def new(**options: Any) -> MessagesPassthrough:
    return MessagesPassthrough(
        forwards=False, include_usage=True, name="chatcmpl-1", created_s=1, model="asked", engine="up", **options
    )


def run(raw: bytes, step: int = 10**6, **options: Any) -> tuple[bytes, MessagesPassthrough]:
    events = new(**options)
    sent = b"".join([events.feed(raw[at : at + step]) for at in range(0, len(raw), step)])
    if not events.done and events.error is None:
        sent += events.end()
    return sent, events


def stream(*content: Json, told: Json | None = None) -> bytes:
    return b"".join([claude.encode(event) for event in claude.events(list(content), told=told)])


def charged(events: MessagesPassthrough) -> Usage:
    return events.usage_if_ended(PromptCount(10), 100, is_exact=False).usage


@pytest.mark.parametrize("step", [1, 7, 64, 10**6])
def test_every_byte_passes_and_the_end_waits_for_the_charge(step: int) -> None:
    raw = stream(THOUGHT, TEXT, CALL, told=CACHED)
    sent, events = run(raw, step)
    assert events.done
    assert b"message_delta" not in sent
    usage = charged(events)
    assert sent + events.final_events(usage) == raw.replace(b'{"type": "message_stop"}', b'{"type":"message_stop"}')
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (PROMPT, 40, READ)
    assert (usage.cache_write_tokens, usage.cache_write_1h_tokens) == (WRITTEN, 400)
    assert events.served_model == claude.MODEL
    assert events.size >= len("Which one?Saturn has the most moons.")


def test_other_line_ends_and_unknown_events() -> None:
    raw = stream(TEXT).replace(b"\n", b"\r\n")
    sent, events = run(raw, 5)
    assert claude.outcome(claude.read_stream((sent + events.final_events(charged(events))).decode())) == [TEXT]
    novelty = b'event: novelty\ndata: {"type":"novelty","x":[1]}\n\n'
    sent, events = run(stream(TEXT).replace(b"event: ping", novelty + b"event: ping"))
    assert novelty in sent


def test_a_usage_that_is_not_believed_is_replaced_in_what_is_sent() -> None:
    events = run(stream(TEXT, told={**claude.usage(0), "output_tokens": 10_000_000}))[1]
    usage = charged(events)
    assert usage.completion_tokens < 100
    told = claude.read_stream((run(stream(TEXT))[0] + events.final_events(usage)).decode())[-2].usage
    assert told.output_tokens == usage.completion_tokens


def test_errors_of_a_stream_are_this_servers_own() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded for org-ACME"}}
    for events in ([claude.encode(error)], [stream(TEXT)[:400].rpartition(b"\n\n")[0] + b"\n\n", claude.encode(error)]):
        failed = run(b"".join(events))[1].error
        assert isinstance(failed, Overloaded)
        assert "ACME" not in failed.message


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", EngineError),
        (b"data: {nonsense\n\n", EngineError),
        (stream(TEXT).partition(b"event: message_delta")[0], EngineBroken),
        (b'{"type":"error","error":{"type":"api_error","message":"x"}}', ServiceError),
        (b"data: " + b"[" * 100_000 + b"\n\n", EngineError),
    ],
)
def test_a_stream_that_is_none(raw: bytes, kind: type[ServiceError]) -> None:
    assert isinstance(run(raw)[1].error, kind)


def test_a_stream_is_complete_without_its_last_event() -> None:
    sent, events = run(stream(TEXT).partition(b"event: message_stop")[0])
    assert events.done
    assert claude.outcome(claude.read_stream((sent + events.final_events(charged(events))).decode())) == [TEXT]


def test_another_engine_can_take_over_until_the_first_block() -> None:
    begin = stream(TEXT).partition(b"event: content_block_start")[0]
    _, events = run(begin + b"event: ping\ndata: {}\n\n")
    assert not events.has_spoken
    assert events.head is not None
    sent, later = run(stream(TEXT), head=events.head)
    assert later.has_spoken
    assert b"message_start" not in sent
    assert b"message_start" in run(stream(TEXT), head=None)[0]
    assert isinstance(events.head, Chunk)


def test_one_message_where_a_stream_was_requested() -> None:
    raw = json.dumps(claude.message([THOUGHT, TEXT, CALL])).encode()
    sent, events = run(raw)
    found = claude.read_stream((sent + events.final_events(charged(events))).decode())
    assert claude.outcome(found) == [THOUGHT, TEXT, CALL]
    assert charged(events).completion_tokens == len(claude.WORDS)


def test_what_was_cut_off_is_counted() -> None:
    cut = stream({"type": "text", "text": "word " * 100}).partition(b"event: content_block_stop")[0]
    events = new()
    events.feed(cut)
    usage = charged(events)
    assert usage.prompt_tokens == INPUT
    assert 90 <= usage.completion_tokens <= 100


# ── whole messages ────────────────────────────────────────────────────────────────────────────────────────


def checked(value: Any, **options: Any) -> Any:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return check_message(raw, prompt=PromptCount(10), max_output=100, model="asked", engine="up", **options)


def test_a_whole_message_passes_as_it_is() -> None:
    raw = json.dumps(claude.message([THOUGHT, TEXT], told=CACHED)).encode()
    found = checked(raw)
    assert found.body == raw
    assert (found.usage.prompt_tokens, found.usage.cached_tokens, found.model) == (PROMPT, READ, claude.MODEL)


def test_a_whole_message_without_a_believable_usage() -> None:
    for told in ({"output_tokens": 0, "input_tokens": 0}, {"output_tokens": 10**9, "input_tokens": 5}, {"x": 1}):
        found = checked(claude.message([TEXT], told=told))
        assert found.is_estimated
        assert json.loads(found.body)["usage"]["output_tokens"] == found.usage.completion_tokens > 0


BROKEN: list[Any] = [
    b"<html>",
    b"[]",
    {"type": "error", "error": {"type": "api_error", "message": "x"}},
    {"type": "message", "content": None},
    {"choices": []},
]


@pytest.mark.parametrize("value", BROKEN)
def test_what_is_no_message(value: Any) -> None:
    with pytest.raises(ServiceError):
        checked(value)


def test_events_and_usage_of_a_message() -> None:
    assert b"".join([event + b"\n\n" for event in events_of(claude.message([]))]).count(b"event: ") == 3
    assert messages_usage(Usage(100, 5, 0, TokenDetails(70, cache_write_tokens=20))) == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 70,
        "output_tokens": 5,
    }
