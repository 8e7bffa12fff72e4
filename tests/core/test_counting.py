"""Unit tests of core/counting.py: every string of the output counts, in any field and on every code path."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.chat.templates import MAX_TEMPLATE_PARSES
from minitoolai.core.counting import (
    PromptCount,
    count_deltas,
    delta_size,
    estimate_output_tokens,
    expect_prompt,
    is_plausible,
    judge_usage,
    least_output,
    least_prompt,
    merge_usage,
    message_size,
    text_size,
)
from minitoolai.core.inference import ChatRequest, CompletionDetails, TokenDetails, Usage
from tests.chat.stream.test_normalizer import choice, event, stream


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **more, "function": {"arguments": arguments}}]}


#: Deltas, with the text in each.
SHAPES: list[tuple[dict[str, Any], str]] = [
    ({"content": "Grüße 🪐"}, "Grüße 🪐"),
    ({"role": "assistant", "content": ""}, ""),
    ({"role": "assistant", "content": "so"}, "so"),
    ({"role": "assistant"}, ""),
    ({"content": None}, ""),
    ({"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, "onetwo"),
    ({"reasoning": "hm"}, "hm"),
    ({"reasoning_content": "hm"}, "hm"),
    ({"reasoning": {"summary": ["a", "b"]}}, "ab"),
    ({"refusal": "no"}, "no"),
    ({"anything": {"at": ["all", {"deep": "down"}]}}, "alldown"),
    ({"type": "thought"}, ""),
    (call('{"city":"Rom\n'), '{"city":"Rom\n'),
    (call("ä"), "ä"),
    (call("", id="call_1", type="function"), ""),
    (call({"city": "Rom"}), '{"city":"Rom"}'),
    ({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]}, "f"),
    ({"tool_calls": [{"index": n, "function": {"arguments": "{}"}} for n in range(3)]}, "{}{}{}"),
    ({"function_call": {"name": "f", "arguments": "{}"}}, "f{}"),
    ({"audio": {"id": "a", "transcript": "spoken", "data": "UklGRg==" * 100}}, "spoken"),
    ({"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 999}}]}, ""),
    ({"annotations": [{"url": "https://example.com/"}]}, "https://example.com/"),
    # The same reasoning in several fields counts once.
    (
        {
            "content": "",
            "reasoning": "hm",
            "reasoning_content": "hm",
            "reasoning_details": [{"type": "reasoning.text", "text": "hm", "format": "x-v1", "signature": "c2ln" * 99}],
        },
        "hm",
    ),
]
KINDS = [json.dumps(shape)[:60] for shape, _ in SHAPES]


@pytest.mark.parametrize(("delta", "text"), SHAPES, ids=KINDS)
def test_every_string_of_a_delta_is_counted_and_nothing_else(delta: dict[str, Any], text: str) -> None:
    size = len(text.encode())
    assert message_size(delta) == size
    for ascii_only in (True, False):
        assert delta_size(json.dumps(delta, ensure_ascii=ascii_only, separators=(",", ":")).encode()) == size
        assert delta_size(json.dumps(delta, ensure_ascii=ascii_only, indent=1).encode()) == size


def another(delta: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the delta, with its own call if it has one with a name: a name is only sent in the first piece."""
    calls = delta.get("tool_calls", ())
    if not any("name" in call["function"] for call in calls):
        return delta
    return {**delta, "tool_calls": [{**call, "index": number, "id": f"c{number}"} for call in calls]}


@pytest.mark.parametrize(("delta", "text"), SHAPES, ids=KINDS)
@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_text_is_counted_if_parsed_forwarded_or_matched_by_a_template(
    delta: dict[str, Any], text: str, forwards: bool, at_once: int
) -> None:
    events, expected, number = stream(forwards=forwards), len(text.encode()), 7 * MAX_TEMPLATE_PARSES
    for first in range(0, number, at_once):
        block = b"".join(event(choice(another(delta, first + n))) for n in range(at_once))
        if events.match_template(block) is None:
            events.feed(block)
    assert (events.pieces, events.size) == (number * (text != ""), number * expected)


def test_events_that_differ_in_every_way_are_counted_in_a_block() -> None:
    """Return a chunk padded like OpenAI's, so that none matches the template."""
    events, written = stream(), ""
    for number in range(3 * MAX_TEMPLATE_PARSES):
        word = f'w{number}" \\ é'
        written += word
        events.feed(event(choice({"content": word}), obfuscation="x" * (number % 9)) * (1 + number % 3))
        written += word * (number % 3)
    assert (events.pieces, events.size) == (written.count("w"), len(written.encode()))


def test_deeply_nested_chunks_are_not_counted_in_a_block_and_cause_no_crash() -> None:
    deep = event(choice({})).replace(b'"delta":{}', b'"delta":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert count_deltas(deep, 1) is None
    inner: Any = "text"
    for _ in range(100_000):
        inner = {"x": [inner]}
    assert message_size({"x": inner}) == 4
    # Free it level by level, because the interpreter would recurse.
    while isinstance(inner, dict):
        inner = inner.pop("x").pop()


def test_megabytes_of_escapes_are_counted_at_once_and_in_little_memory() -> None:
    count = 4_000_000
    delta = b'{"content":"' + b"\\n" * count + b'","n":1}'
    block = event(choice({})).replace(b'"delta":{}', b'"delta":' + delta)
    tracemalloc.start()
    try:
        assert count_deltas(block, 1) == (1, count)
        assert delta_size(delta) == count
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("delta", [b'"words"', b"[]", b"7", b"{", b'{"content":"\xff"}'])
def test_a_delta_that_is_not_an_object_is_not_counted(delta: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        delta_size(delta)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_escapes_count_as_what_they_stand_for(text: str, ascii_only: bool) -> None:
    raw = json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode()
    assert text_size(raw) == len(text.encode())


@given(st.lists(st.integers(1, 10_000), max_size=50))
def test_the_count_is_at_least_half_of_the_bytes_by_four_and_not_above_them_unless_deltas_are_tiny(
    sizes: list[int],
) -> None:
    size, pieces = sum(sizes), len(sizes)
    tokens = estimate_output_tokens(pieces, size)
    assert size / 4 / 2 <= tokens
    assert tokens <= max(pieces, size / 4)


def test_the_later_usage_counts_and_a_zero_in_it_does_not() -> None:
    good = Usage(9, 4, 13, TokenDetails(2), CompletionDetails(3))
    assert merge_usage(None, good) is good
    assert merge_usage(Usage(1, 1), good) is good
    assert merge_usage(good, Usage(0, 0)) is good
    assert merge_usage(good, Usage(0, 7)) == Usage(9, 7, 0, TokenDetails(2), None)
    assert merge_usage(good, Usage(10, 0, 10, TokenDetails(1))) == Usage(
        10, 4, 0, TokenDetails(1), CompletionDetails(3)
    )
    zeros = Usage(0, 0)
    assert merge_usage(zeros, zeros) is zeros


def count(reported: Usage | None, prompt: int = 8, tokens: int = 5, later: int = 0) -> tuple[int, int, bool]:
    judged = judge_usage(reported, prompt=PromptCount(prompt), tokens=tokens, has_begun=tokens > 0, later=later)
    return judged.usage.prompt_tokens, judged.usage.completion_tokens, judged.is_estimated


def test_reported_counts_are_kept_and_missing_ones_estimated() -> None:
    assert count(Usage(10, 6)) == (10, 6, False)
    assert count(None) == (8, 5, True)
    assert count(Usage(0, 0)) == (8, 5, True)
    assert count(Usage(10, 0)) == (10, 5, True)
    assert count(Usage(0, 6)) == (8, 6, True)
    # Output after the last report of a stream that was cut off is estimated.
    assert count(Usage(10, 1), later=4) == (10, 5, True)
    assert count(Usage(10, 0), later=4) == (10, 5, True)


def test_nothing_is_estimated_before_the_first_token() -> None:
    assert count(None, tokens=0) == (0, 0, False)
    assert count(Usage(0, 0), tokens=0) == (0, 0, False)
    assert count(Usage(10, 0), tokens=0) == (10, 0, False)
    # Hidden output was reported, so the prompt was read as well.
    assert count(Usage(0, 6), tokens=0) == (8, 6, True)


# ── which reports are believed ─────────────────────────────────────────────────────────────────────────────────────

PROMPT = PromptCount(tokens=100, least=25, most=1000)


def judged(reported: Usage | None, **more: Any) -> tuple[int, int, bool, tuple[str, ...]]:
    """Judge a report of a response for which we count 400 tokens, believed from 100 to 2,000."""
    options = {"prompt": PROMPT, "tokens": 400, "has_begun": True, "least": 100, "most": 2000} | more
    found = judge_usage(reported, **options)
    return found.usage.prompt_tokens, found.usage.completion_tokens, found.is_estimated, found.doubts


@pytest.mark.parametrize("prompt", [25, 90, 1000])
@pytest.mark.parametrize("output", [100, 400, 2000])
def test_a_report_within_the_range_is_never_replaced(prompt: int, output: int) -> None:
    reported = Usage(prompt, output, prompt + output, TokenDetails(prompt, 0), CompletionDetails(output))
    found = judge_usage(reported, prompt=PROMPT, tokens=400, has_begun=True, least=100, most=2000)
    assert (found.usage, found.is_estimated, found.doubts) == (reported, False, ())
    assert found.usage is reported


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (Usage(0, 0), (100, 400, True, ("output_zero", "prompt_zero"))),
        (Usage(90, 99), (90, 400, True, ("output_low",))),
        (Usage(90, 2001), (90, 400, True, ("output_high",))),
        (Usage(24, 300), (100, 300, True, ("prompt_low",))),
        (Usage(1001, 300), (100, 300, True, ("prompt_high",))),
        (Usage(-5, -5), (100, 400, True, ("output_low", "prompt_low"))),
        (Usage(90, 0, 90), (90, 400, True, ("output_zero",))),
    ],
)
def test_a_report_outside_the_range_is_replaced_by_our_count_with_a_reason(reported: Usage, expected: Any) -> None:
    assert judged(reported) == expected


def test_the_difference_of_a_total_is_output_or_a_missing_prompt() -> None:
    assert judged(Usage(90, 150, 90 + 150 + 500)) == (90, 650, False, ())
    assert judged(Usage(0, 300, 390)) == (90, 300, False, ())
    # Nothing is known about the parts of a total alone.
    assert judged(Usage(0, 0, 13)) == (100, 400, True, ("output_zero", "prompt_zero"))
    # A total that cannot be true says nothing.
    assert judged(Usage(90, 300, 2**31 - 1)) == (90, 300, False, ())
    # A prompt without output, as of embeddings.
    assert judged(Usage(0, 0, 90), most=0, least=0, tokens=0) == (90, 0, False, ())


def test_a_report_with_the_first_chunk_alone_is_about_the_prompt() -> None:
    assert judged(Usage(90, 1), is_early=True) == (90, 400, True, ())
    assert judged(Usage(90, 300), is_early=True) == (90, 400, True, ())


def test_details_are_never_above_their_count_nor_below_zero() -> None:
    reported = Usage(90, 300, 390, TokenDetails(5000, -1), CompletionDetails(9999, None, -7, 3))
    found = judge_usage(reported, prompt=PROMPT, tokens=400, has_begun=True, least=100, most=2000).usage
    assert (found.prompt_tokens, found.completion_tokens) == (90, 300)
    assert found.prompt_tokens_details == TokenDetails(90, 0)
    assert found.completion_tokens_details == CompletionDetails(300, None, 0, 3)


def test_an_absurd_report_is_a_reason_even_if_nothing_was_charged() -> None:
    assert judged(None, was_absurd=True) == (100, 400, True, ("absurd",))
    assert judged(None, was_absurd=True, has_begun=False, tokens=0) == (0, 0, False, ("absurd",))
    assert not is_plausible(Usage(9, 2**31 - 1))
    assert not is_plausible(Usage(-1, 4))
    assert is_plausible(Usage(9, 4, 13, TokenDetails(10**12)))


def test_an_upstream_that_sends_single_characters_is_believed() -> None:
    # Formal English has up to nine bytes per token, Chinese three bytes per character.
    text = "internationalisation"
    assert least_output(len(text), len(text)) <= len(text) / 9 + 1
    assert least_output(1000, 9000) == 450


def test_a_prompt_of_long_runs_may_have_few_tokens() -> None:
    table = "\n".join("-" * 200 + " " * 200 for _ in range(100))
    asked = ChatRequest(
        "m", [{"role": "user", "content": table}], {}, stream=True, include_usage=True, limit=None,
        text_bytes=len(table),
    )  # fmt: skip
    count = expect_prompt(asked, None, 100_000)
    assert count.least > 1000
    assert least_prompt(asked) < 50
    words = ChatRequest(
        "m", [{"role": "user", "content": "some words " * 1000}], {}, stream=True, include_usage=True, limit=None,
        text_bytes=11_000,
    )  # fmt: skip
    assert least_prompt(words) == 550
    # Reasoning of an earlier turn, a schema, and tools that must not be called, may be left out.
    thought = {"role": "assistant", "content": "Yes.", "reasoning_content": "hm " * 9000}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": "word " * 9000}}}
    tools = [{"type": "function", "function": {"name": "f", "description": "word " * 9000}}]
    fields = {"response_format": schema, "tools": tools, "tool_choice": "none"}
    agent = ChatRequest("m", [thought], fields, stream=True, include_usage=True, limit=None)
    assert least_prompt(agent) == 0
    agent.fields["tool_choice"] = "auto"
    assert least_prompt(agent) > 2000
