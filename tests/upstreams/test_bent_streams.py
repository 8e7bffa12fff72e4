"""A good stream, bent in every way that servers bend it: the text arrives whole, and what leaves is documented.

Fields are left out, null or of another type; keys change their order; events are cut anywhere, with any line end,
between comments and events that say nothing; emoji are cut into halves.
"""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from minitoolai.chat.dialects.completions import CompletionsTranslator
from minitoolai.chat.dialects.responses import ResponsesTranslator
from minitoolai.core.errors import ServiceError
from minitoolai.core.inference import Usage
from tests.support.strict import check, check_event
from tests.upstreams.test_corpus import RESPONSES, chunks, outcome, streamed, whole

Json = dict[str, Any]

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m"}
ODD: list[Any] = [None, "", 0, 7, -1, 1.5, True, [], {}, ["x"], {"a": 1}, "text", 10**30, "\ud83d"]
USAGES: list[Any] = [
    {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    {"prompt_tokens": "3", "completion_tokens": 4.0},
    {"total_tokens": 7},
    {"prompt_tokens": None, "completion_tokens": None},
    *ODD,
]
NOISE = [
    ": comment\n\n",
    ":\n\n",
    "event: ping\ndata: {}\n\n",
    'data: {"type": "ping"}\n\n',
    "data: ping\n\n",
    "data:\n\n",
    "\n",
    "id: 7\nretry: 10\n\n",
    'data: {"choices": null}\n\n',
    'data: {"choices": [], "error": null}\n\n',
    "unknown: field\n\n",
    "data: [1, 2]\n\n",
]


@st.composite
def bent(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a text and a stream that delivers it."""
    text = draw(st.text(st.characters(codec="utf-8"), max_size=40) | st.text('ab🙂🪐é"\\\n', max_size=40))
    chance = random.Random(draw(st.integers(0, 2**32)))
    amount = draw(st.sampled_from([0.0, 0.1, 0.5]))

    def odd() -> bool:
        return chance.random() < amount

    def shuffled(fields: Json) -> Json:
        keys = list(fields)
        if odd():
            chance.shuffle(keys)
        return {key: fields[key] for key in keys}

    def head() -> Json:
        fields: Json = {**HEAD, "service_tier": None, "system_fingerprint": None, "usage": None}
        for name in list(fields):
            if odd():
                fields[name] = chance.choice(USAGES if name == "usage" else ODD)
            elif odd():
                del fields[name]
        return fields

    def delta(piece: str) -> Any:
        plain: Json = {"content": piece}
        if not odd():
            return plain
        forms: list[Any] = [
            {"role": chance.choice([*ODD, "assistant", "model"]), "content": piece},
            {"content": [{"type": "text", "text": piece}]},
            {"content": [piece]},
            {"content": {"type": "text", "text": piece}},
            {"content": piece, "tool_calls": chance.choice([None, [], "x", 7]), "function_call": None},
            {"content": piece, "refusal": None, "reasoning_content": None, "reasoning": ""},
            {"extra": chance.choice([7, None]), "content": piece},
        ]
        return chance.choice(forms)

    def choice(piece: str, finish: Any) -> Json:
        fields: Json = {"index": 0, "delta": delta(piece), "logprobs": None, "finish_reason": finish}
        if odd():
            fields["index"] = chance.choice([None, "0", 0.0, "x", -1])
        if odd():
            fields["logprobs"] = chance.choice(
                [{}, {"content": None}, {"content": [{"token": piece}]}, "x", {"tokens": ["a"]}]
            )
        if odd() and finish is None:
            fields["finish_reason"] = chance.choice(["", False, "null"])
        elif odd() and finish is None:
            del fields["finish_reason"]
        return shuffled(fields)

    def event(fields: Json) -> str:
        line = json.dumps(shuffled(fields), ensure_ascii=False)
        if chance.random() < 0.5 or any("\ud800" <= character <= "\udfff" for character in line):
            line = json.dumps(json.loads(line))
        before = chance.choice(["event: message\n", ": glued\n", "id: 1\n"]) if odd() else ""
        space = "" if odd() else " "
        return f"{before}data:{space}{line}\n\n"

    utf16 = text.encode("utf-16-le")
    units = [utf16[at : at + 2] for at in range(0, len(utf16), 2)]
    pieces: list[str] = []
    while units:
        size = chance.randint(1, 5)
        pieces.append(b"".join(units[:size]).decode("utf-16-le", "surrogatepass"))
        units = units[size:]
    source = "\ufeff" if odd() else ""
    for piece in pieces:
        source += chance.choice(NOISE) if odd() else ""
        source += event({**head(), "choices": [choice(piece, None)]})
    source += event({**head(), "choices": [choice("", chance.choice(["stop", "eos", "STOP", "end_turn"]))]})
    source += chance.choice(NOISE) if odd() else ""
    if chance.random() < 0.7:
        source += event({**head(), "choices": chance.choice([[], None]), "usage": chance.choice(USAGES)})
    source += chance.choice(["data: [DONE]\n\n", "data: [DONE]\n", "data:[DONE]", ""])
    line_end = chance.choice(["\n", "\n", "\r\n", "\r"])
    return text, source.replace("\n", line_end).encode()


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(bent(), st.lists(st.floats(0, 1), max_size=8), st.booleans(), st.booleans())
@example(("", b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'), [], True, True)
def test_the_text_of_a_bent_stream_arrives_whole(
    source: tuple[str, bytes], cuts: list[float], forwards: bool, include_usage: bool
) -> None:
    text, raw = source
    places = sorted(int(cut * len(raw)) for cut in cuts)
    pieces = [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]
    sent, events = streamed(pieces, forwards=forwards, include_usage=include_usage)
    told = chunks(sent)
    assert outcome(told)["text"] == text
    assert (events.error, events.done) == (None, True)
    for chunk in told:
        ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
        assert chunk["id"]
        assert chunk["model"]
        if not forwards:
            chunk["choices"][0]["delta"].pop("extra", None)
            check(ChatCompletionChunk, chunk)
    assert events.usage is None or isinstance(events.usage, Usage)
    assert json.loads(whole(raw, forwards=False).body)["choices"][0]["message"]["content"] in (text, None)


#: A chunk with every field that is known.
FULL: Json = {
    **HEAD,
    "choices": [
        {
            "index": 0,
            "delta": {
                "role": "assistant",
                "content": "hi",
                "tool_calls": [
                    {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
                "refusal": None,
                "reasoning": None,
                "reasoning_content": None,
                "reasoning_details": None,
                "function_call": None,
            },
            "logprobs": {
                "content": [
                    {
                        "token": "hi",
                        "logprob": -1.0,
                        "bytes": [1],
                        "top_logprobs": [{"token": "hi", "logprob": -1.0, "bytes": None}],
                    }
                ]
            },
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
    "error": None,
    "service_tier": None,
    "system_fingerprint": None,
}
MORE_ODD = [
    [[]],
    [None],
    {"text": None},
    {"content": 5},
    [{"type": ["x"]}],
    [{"type": {}, "text": "a"}],
    [{"a": "\ud83d"}],
]


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of every value within another."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *[found for key, one in inner for found in places(one, (*place, key))]]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


@pytest.mark.parametrize("name", ["delta", "message", "text"])
def test_a_field_of_any_type_breaks_nothing(name: str) -> None:
    (choice,) = FULL["choices"]
    choice = {name if key == "delta" else key: value for key, value in choice.items()}
    if name == "text":
        choice["text"] = "hi"
    full = {**FULL, "choices": [choice]}
    odds = ODD + MORE_ODD
    for number, place in enumerate(places(full)):
        # Every fourth value in each place, and each of them in every fourth place.
        for odd in odds[number % 4 :: 4]:
            chunk = json.dumps(replaced(full, place, odd)).encode()
            for raw in (b"data: " + chunk + b"\n\n", chunk):
                for forwards in (True, False):
                    sent, events = streamed([raw], forwards=forwards)
                    assert events.done == (events.error is None)
                    for told in chunks(sent):
                        ChatCompletionChunk.model_validate_json(json.dumps(told), strict=True)
                if sent:
                    for event in ResponsesTranslator("resp_made", RESPONSES, 1).events(sent).split(b"\n\n")[:-1]:
                        check_event(json.loads(event.partition(b"\ndata: ")[2]))
                    CompletionsTranslator("cmpl-made").events(sent)
                with contextlib.suppress(ServiceError):
                    body = whole(raw, forwards=False).body
                    ChatCompletion.model_validate_json(body, strict=True)
                    ResponsesTranslator("resp_made", RESPONSES, 1).completion(body)
                    CompletionsTranslator("cmpl-made").completion(body)
