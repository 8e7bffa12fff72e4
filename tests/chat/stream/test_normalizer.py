"""Unit tests of chat/stream/normalizer.py: the same events however the bytes are split, and no text lost."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from minitoolai.chat.stream.chunks import DONE
from minitoolai.chat.stream.normalizer import LARGEST_EVENT, ChunkNormalizer
from minitoolai.chat.templates import MAX_TEMPLATE_PARSES
from minitoolai.core.counting import PromptCount
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import TokenDetails, Usage
from minitoolai.http.errors import error_event

HEAD = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1_700_000_000,
    "model": "gpt-4o-2024-08-06",
    "service_tier": "default",
    "system_fingerprint": "fp_1",
}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 2}}
DELTAS: list[dict[str, Any]] = [
    {"role": "assistant", "content": ""},
    {"content": "Grüße "},
    {"content": 'a "usage": {quote} '},
    {"content": "[DONE] \n\n☃"},
    {"content": "🪐"},
]


def event(choices: list[dict[str, Any]], usage: Any = None, **head: Any) -> bytes:
    chunk = {**HEAD, **head, "choices": choices, "usage": usage}
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def choice(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]


TEXT = b"".join(event(choice(delta)) for delta in DELTAS)
END = event(choice({}, "stop"))
USAGE_EVENT = event([], USAGE)
WHOLE = TEXT + END + USAGE_EVENT + DONE
#: Variants of server-sent events that the standard allows and that engines use.
COMMENTED = b": hello\n\n" + TEXT.replace(b"data: ", b": ping\n\ndata: ", 3) + END + b": ping\n\n" + USAGE_EVENT + DONE


def stream(*, forwards: bool = True, include_usage: bool = True) -> ChunkNormalizer:
    return ChunkNormalizer(
        forwards=forwards, include_usage=include_usage, name="chatcmpl-ours", created_s=1_800_000_000
    )


def feed(source: bytes, *pieces: int, **options: bool) -> tuple[bytes, ChunkNormalizer]:
    """Return the output for a stream that arrives in pieces ending at these positions."""
    events = stream(**options)
    return b"".join(events.feed(source[a:b]) for a, b in itertools.pairwise([0, *pieces, len(source)])), events


def chunks(output: bytes) -> list[dict[str, Any]]:
    assert output.endswith(b"\n\n")
    lines = [line for line in output.split(b"\n\n") if line]
    assert all(line.startswith(b"data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines]


def text(output: bytes) -> str:
    return "".join(c["delta"].get("content") or "" for chunk in chunks(output) for c in chunk["choices"])


SAID = "".join(delta["content"] for delta in DELTAS)
TEXT_BYTES = len(SAID.encode())
MODES = [{"forwards": forwards, "include_usage": usage} for forwards in (True, False) for usage in (True, False)]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("source", [WHOLE, COMMENTED, WHOLE.replace(b"\n", b"\r\n")], ids=["plain", "comments", "CRLF"])
def test_bytes_cut_at_any_place_give_the_same_answer(source: bytes, mode: dict[str, bool]) -> None:
    expected, whole = feed(source, **mode)
    assert text(expected) == SAID
    for cut in range(1, len(source)):
        output, events = feed(source, cut, **mode)
        assert output == expected
        assert (events.done, events.usage, events.error) == (True, whole.usage, None)
        assert (events.pieces, events.size) == (whole.pieces, whole.size) == (4, TEXT_BYTES)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_bytes_that_come_one_by_one_give_the_same_answer(mode: dict[str, bool]) -> None:
    assert feed(COMMENTED, *range(1, len(COMMENTED)), **mode)[0] == feed(WHOLE, **mode)[0]


def test_a_complete_engine_is_forwarded_to_the_byte() -> None:
    assert feed(WHOLE)[0] == TEXT + END


def test_rewritten_chunks_have_the_same_content_as_forwarded_ones() -> None:
    forwarded, rewritten = chunks(feed(WHOLE)[0]), chunks(feed(WHOLE, forwards=False)[0])
    assert rewritten == forwarded


def test_chunks_have_no_usage_field_unless_it_is_requested() -> None:
    output, events = feed(WHOLE, include_usage=False)
    assert all("usage" not in chunk for chunk in chunks(output))
    assert [chunk["choices"] for chunk in chunks(output)] == [chunk["choices"] for chunk in chunks(feed(WHOLE)[0])]
    assert events.usage is not None
    assert events.final_events(events.usage) == DONE


def test_an_event_is_sent_only_when_it_is_complete() -> None:
    events = stream()
    first = event(choice({"content": "Grüße"}))
    assert events.feed(first[:-1]) == b""
    assert events.feed(first[-1:]) == first


def test_the_usage_and_the_end_are_held_back_for_the_final_events() -> None:
    output, events = feed(WHOLE)
    assert events.done
    assert b'"usage":{' not in output
    assert b"data: [DONE]" not in output
    usage_chunk = chunks(events.final_events(events.usage or Usage(0, 0)).removesuffix(DONE))[0]
    assert usage_chunk == {
        **HEAD,
        "choices": [],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }


@pytest.mark.parametrize("forwards", [True, False])
def test_usage_in_the_finish_chunk_is_collected_and_held_back(forwards: bool) -> None:
    output, events = feed(TEXT + event(choice({}, "stop"), USAGE) + DONE, forwards=forwards)
    assert (events.usage, events.done) == (Usage(9, 4, 13, TokenDetails(2)), True)
    last = chunks(output)[-1]
    assert last["usage"] is None
    assert last["choices"] == choice({}, "stop")


@pytest.mark.parametrize("forwards", [True, False])
def test_the_last_of_several_usages_counts(forwards: bool) -> None:
    growing = [event(choice(d), {**USAGE, "completion_tokens": n}) for n, d in enumerate(DELTAS)]
    output, events = feed(b"".join(growing) + END + DONE, forwards=forwards)
    assert events.usage is not None
    assert events.usage.completion_tokens == len(DELTAS) - 1
    assert text(output) == SAID
    assert all(chunk["usage"] is None for chunk in chunks(output))


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -9, "completion_tokens": 4},
        {"prompt_tokens": 9, "completion_tokens": 10**15},
        {"prompt_tokens": 9, "completion_tokens": 2**31 - 1},
    ],
)
def test_an_implausible_usage_is_ignored(usage: dict[str, Any]) -> None:
    _, events = feed(TEXT + END + event([], usage) + DONE)
    assert (events.usage, events.done, events.pieces, events.was_absurd) == (None, True, 4, True)
    judged = events.usage_if_ended(PromptCount(7), 1000, is_exact=False)
    assert (judged.usage, judged.is_estimated, judged.doubts) == (Usage(7, 9), True, ("absurd",))


def test_a_stream_without_an_end_is_not_done() -> None:
    for source in (TEXT + END, TEXT + END + USAGE_EVENT, WHOLE[:-1]):
        assert not feed(source)[1].done


def test_nothing_after_the_end_is_sent() -> None:
    late = event(choice({"content": "late"}))
    assert feed(WHOLE + late)[0] == feed(WHOLE)[0] == feed(WHOLE + late, len(WHOLE))[0]


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        {"error": {"message": "the GPU at 10.0.0.7 is on fire", "type": "server_error"}},
        {"error": "plain words"},
        {"error": {"code": 7}},
        {"error": {"message": "x" * 9000}},
        {"detail": "Not Found"},
        {"message": "boom", "code": 500},
        {"object": "error", "message": "boom"},
        {**HEAD, "choices": choice({"content": ""}, "error"), "error": {"message": "gone"}},
        {**HEAD, "choices": choice({}, "error")},
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    ],
    ids=str,
)
def test_an_error_event_is_detected_and_never_forwarded(forwards: bool, fault: Any) -> None:
    source = TEXT + b"data: " + json.dumps(fault, separators=(",", ":")).encode() + b"\n\n" + TEXT
    output, events = feed(source, forwards=forwards)
    assert events.error is not None
    assert not any(word in events.error.message for word in ("fire", "plain", "boom", "xxx", "10.0"))
    assert text(output) == SAID
    assert (events.pieces, events.size) == (4, TEXT_BYTES)
    for cut in range(len(TEXT) - 20, len(TEXT) + 60):
        assert text(feed(source, cut, forwards=forwards)[0]) == SAID


@pytest.mark.parametrize(
    "data", [b'event: error\ndata: {"message": "x"}', b"event: error\ndata: boom", b"event: error"]
)
def test_an_event_named_error_is_an_error(data: bytes) -> None:
    output, events = feed(TEXT + data + b"\n\n" + END)
    assert (text(output), events.error is not None, events.done) == (SAID, True, False)


def test_a_null_error_is_ignored() -> None:
    output, events = feed(
        event(choice({"content": "a"}), error=None) + event(choice({"content": "b"}), error=None) + DONE
    )
    assert (events.error, events.done, text(output)) == (None, True, "ab")


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize(
    "rubbish",
    [
        b"data: {\n\n",
        b'data: {"choices":[{"delta":{"content":"los\n\n',
        b'data: {"choices":[{"delta":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}]}\n\n",
    ],
    ids=["brace", "cut", "deep"],
)
def test_a_chunk_that_cannot_be_read_is_an_error_and_loses_nothing_before_it(rubbish: bytes, forwards: bool) -> None:
    for source, said in ((rubbish, ""), (TEXT + rubbish, SAID), (TEXT + rubbish + TEXT, SAID)):
        output, events = feed(source, forwards=forwards)
        assert isinstance(events.error, EngineError)
        assert "an invalid chunk" in events.error.message
        assert (text(output) if output else "") == said
        assert events.feed(TEXT) == b""


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize(
    "nothing",
    [
        b"data: ping\n\n",
        b"data: <html>502 Bad Gateway</html>\n\n",
        b"data: \xff\xfe\n\n",
        b"data: [1]\n\n",
        b"data: 7\n\n",
        b"data:\n\n",
        b'data: {"choices": 7}\n\n',
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b"id: 7\nretry: 100\n\n",
        b'data: {"type": "status", "message": "loading"}\n\n',
    ],
)
def test_an_event_that_says_nothing_is_skipped(nothing: bytes, forwards: bool) -> None:
    output, events = feed(nothing + TEXT + nothing + END + nothing + USAGE_EVENT + nothing + DONE, forwards=forwards)
    assert (text(output), events.error, events.done) == (SAID, None, True)
    assert events.usage is not None
    alone = feed(nothing)[1]
    assert (alone.end(), alone.error is not None) == (b"", True)


def test_an_event_without_an_end_is_an_error() -> None:
    events = stream()
    for _ in range(LARGEST_EVENT // 2**20):
        assert events.feed(b"x" * 2**20) == b""
    assert events.feed(b"x") == b""
    assert f"more than {LARGEST_EVENT} bytes" in str(events.error)


def test_chunks_get_missing_fields_from_the_first_one() -> None:
    bare = (
        b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
        b'data: {"model":"b","choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    )
    first, last = chunks(feed(bare, forwards=False)[0])
    assert list(first) == ["id", "object", "created", "model", "service_tier", "system_fingerprint", "choices", "usage"]
    assert (first["id"], first["created"], first["service_tier"]) == ("chatcmpl-ours", 1_800_000_000, "default")
    assert first["system_fingerprint"].startswith("fp_")
    assert first["choices"] == [{"index": 0, "delta": {"content": "Hi"}, "logprobs": None, "finish_reason": None}]
    assert {key: last[key] for key in last if key != "choices"} == {
        key: first[key] for key in first if key != "choices"
    }


def test_the_model_that_answers_is_the_one_that_is_named() -> None:
    output, events = feed(WHOLE, forwards=False)
    assert events.served_model == "gpt-4o-2024-08-06"
    assert {chunk["model"] for chunk in chunks(output)} == {"gpt-4o-2024-08-06"}


def test_an_event_on_several_data_lines_is_one_chunk() -> None:
    split = TEXT.replace(b'"choices":', b'\ndata: "choices":') + END + DONE
    assert text(feed(split, forwards=False)[0]) == SAID


def test_data_without_a_space_is_read_too() -> None:
    output, events = feed(WHOLE.replace(b"data: ", b"data:"), forwards=False)
    assert (text(output), events.done) == (SAID, True)


def test_a_first_delta_without_text_is_written_as_openai_does() -> None:
    output, _ = feed(event(choice({"role": "assistant", "content": None})), forwards=False)
    assert chunks(output)[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("forwards", [True, False])
def test_deltas_with_text_are_counted_with_their_bytes(forwards: bool, spaced: bool) -> None:
    deltas = [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"reasoning_content": "b"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"refusal": "no"},
    ]
    source = b"".join(event(choice(d)) for d in deltas) + END
    if spaced:
        source = source.replace(b'":', b'": ')
    for events in (feed(source, forwards=forwards)[1], feed(source, *range(1, len(source)), forwards=forwards)[1]):
        assert (events.pieces, events.size) == (4, 5)


@pytest.mark.parametrize("forwards", [True, False])
def test_tool_calls_and_logprobs_pass_through_as_they_came(forwards: bool) -> None:
    function = {"name": "f", "arguments": '{"a":1}'}
    call = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]}
    token = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
    said = [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [token]}, "finish_reason": None}]
    sent = [choice(call), said, choice({})]
    output, events = feed(b"".join(map(event, sent)) + DONE, forwards=forwards)
    assert [chunk["choices"] for chunk in chunks(output)] == sent
    assert (events.pieces, events.size) == (2, len('f{"a":1}') + 1)


def test_several_choices_are_forwarded_and_counted() -> None:
    both = [{"index": n, "delta": {"content": "x"}, "logprobs": None, "finish_reason": None} for n in range(2)]
    for forwards in (True, False):
        output, events = feed(event(both) + event(both) + DONE, forwards=forwards)
        assert [c["index"] for chunk in chunks(output) for c in chunk["choices"]] == [0, 1, 0, 1]
        assert (events.pieces, events.size) == (4, 4)


def test_an_error_of_ours_is_an_event_in_the_same_shape() -> None:
    written = error_event('no "quotes" lost', kind="server_error", code="upstream_error")
    assert chunks(written) == [
        {"error": {"message": 'no "quotes" lost', "type": "server_error", "param": None, "code": "upstream_error"}}
    ]


@pytest.mark.parametrize("per_block", [1, 2])
def test_usage_beside_text_is_collected_after_many_forwarded_events(per_block: int) -> None:
    events = stream()
    for _ in range(MAX_TEMPLATE_PARSES + 8):
        events.feed(event(choice({"content": "a"})) * per_block)
    usage = {"prompt_tokens": 9, "completion_tokens": 44}
    events.feed(event(choice({"content": "z"})) + event(choice({"content": "z"}), usage))
    assert events.usage is not None
    assert (events.usage.prompt_tokens, events.usage.completion_tokens) == (9, 44)


@pytest.mark.parametrize("forwards", [True, False])
def test_a_whole_answer_where_a_stream_was_requested_is_sent_as_chunks(forwards: bool) -> None:
    message = {"role": "assistant", "content": SAID}
    whole = {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    body = json.dumps({**whole, "usage": USAGE}, indent=2).encode().replace(b"\n ", b"\n\n ")
    for pieces in ((), (1,), (40, 41, 300)):
        output, events = feed(body, *pieces, forwards=forwards)
        assert output == b""
        output = events.end()
        assert (text(output), events.error, events.done) == (SAID, None, True)
        assert chunks(output)[0]["object"] == "chat.completion.chunk"
        assert events.usage == Usage(9, 4, 13, TokenDetails(2))


@pytest.mark.parametrize(
    "body", [b'{"error": {"message": "no"}}', b'[{"error": {"code": 400}}]', b"{", b'{"a": 1}', b"<html>"]
)
def test_a_body_without_an_answer_is_an_error(body: bytes) -> None:
    events = stream()
    assert (events.feed(body), events.end(), events.done) == (b"", b"", False)
    assert isinstance(events.error, EngineError)


@pytest.mark.parametrize(
    "tail", [b"", b"data: [DONE]", b"data: [DONE]\n", USAGE_EVENT[:-2], USAGE_EVENT[:-9], b": bye"]
)
@pytest.mark.parametrize("forwards", [True, False])
def test_a_finish_reason_is_an_end(tail: bytes, forwards: bool) -> None:
    output, events = feed(TEXT + END + tail, forwards=forwards)
    assert (text(output + events.end()), events.error, events.done) == (SAID, None, True)


def test_every_choice_needs_a_finish_reason() -> None:
    ends = [event([{"index": n, "delta": {}, "logprobs": None, "finish_reason": "stop"}]) for n in range(2)]
    for source, is_done in ((b"".join(ends), True), (ends[0], False), (ends[0] * 2, False)):
        events = ChunkNormalizer(forwards=True, include_usage=True, name="x", created_s=1, choices=2)
        events.feed(TEXT + source)
        events.end()
        assert (events.done, events.error is None) == (is_done, is_done)


def test_a_stream_that_is_cut_off_is_an_error_though_it_told_a_usage() -> None:
    for source in (TEXT, TEXT + event(choice({"content": "x"}), USAGE), TEXT + END[:-30], TEXT + USAGE_EVENT):
        _, events = feed(source)
        events.end()
        assert not events.done
        assert "closed the stream early" in str(events.error)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_any_line_end_may_be_cut(line_end: bytes) -> None:
    source = WHOLE.replace(b"\n", line_end)
    for cut in range(len(TEXT) - 4, len(TEXT) + 8):
        output, events = feed(source, cut)
        assert (output, events.done) == (TEXT + END, True)
    assert text(feed(source, *range(1, len(source)))[0]) == SAID


@pytest.mark.parametrize("tier", ["flex", "priority", "default"])
def test_a_rewritten_chunk_keeps_the_engines_service_tier(tier: str) -> None:
    source = b"".join(event(choice(delta), service_tier=tier) for delta in DELTAS) + END + DONE
    output, _ = feed(source, forwards=False)
    assert {chunk["service_tier"] for chunk in chunks(output)} == {tier}


def test_nothing_after_the_end_of_a_long_stream_is_sent() -> None:
    """A stream that has shown its form for long enough is forwarded unparsed, but not beyond its end."""
    events, word = stream(), event(choice({"content": "word "}))
    for _ in range(MAX_TEMPLATE_PARSES + 2):
        assert events.feed(word) == word
    assert events.feed(END + USAGE_EVENT + DONE) == END
    assert events.feed(word) == b""
    assert events.feed(word * 2) == b""
    assert events.pieces == MAX_TEMPLATE_PARSES + 2


def test_a_usage_in_the_middle_counts_if_the_stream_came_to_its_end() -> None:
    events, words = stream(), [event(choice({"content": word})) for word in ("one", "two", "three")]
    events.feed(words[0] + words[1] + USAGE_EVENT + words[2] + END + DONE)
    judged = events.usage_if_ended(PromptCount(9), 100, is_exact=True)
    assert (judged.usage.prompt_tokens, judged.usage.completion_tokens, judged.is_estimated) == (9, 4, False)
