"""Unit tests of completions without streaming: every documented field is present."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.completion import NormalizedCompletion, normalize_completion
from minitoolai.core.counting import PromptCount
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import Usage

CHOICES = [{"index": 0, "message": {"role": "assistant", "content": "Grüße"}, "finish_reason": "stop"}]
ANSWER = {"id": "c1", "object": "chat.completion", "created": 5, "model": "m", "choices": CHOICES}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def read(answer: Any, *, forwards: bool = False, **more: int) -> tuple[dict[str, Any], NormalizedCompletion]:
    whole = normalize_completion(
        json.dumps(answer).encode(), forwards=forwards, name="gen-1", created_s=99, prompt=PromptCount(7), **more
    )
    return json.loads(whole.body), whole


def test_fields_that_the_engine_leaves_out_are_filled_in() -> None:
    body, whole = read({"model": "m", "choices": CHOICES, "usage": USAGE})
    assert body["choices"] == [{**CHOICES[0], "logprobs": None}]
    assert (body["object"], body["service_tier"], body["usage"]["total_tokens"]) == ("chat.completion", "default", 13)
    assert body["system_fingerprint"].startswith("fp_")
    assert (body["id"], body["created"]) == ("chatcmpl-1", 99)
    assert set(body["usage"]) == {
        "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details",
    }  # fmt: skip
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.model) == (9, 4, "m")
    assert not whole.is_estimated


def test_a_complete_answer_is_forwarded_to_the_byte() -> None:
    body = json.dumps({**ANSWER, "usage": USAGE}, indent=1).encode()
    assert normalize_completion(body, forwards=True, name="gen-1", prompt=PromptCount(7), created_s=99).body == body


@pytest.mark.parametrize("where", ["answer", "choice", "usage"])
def test_a_field_that_is_not_documented_may_name_the_supplier_and_is_left_out(where: str) -> None:
    more = {"provider": "Acme"}
    choices = [{**choice, **(more if where == "choice" else {})} for choice in ANSWER["choices"]]
    told = {**ANSWER, "choices": choices, "usage": USAGE | (more if where == "usage" else {})}
    body = json.dumps(told | (more if where == "answer" else {})).encode()
    whole = normalize_completion(body, forwards=True, name="gen-1", prompt=PromptCount(7), created_s=99)
    assert b"Acme" not in whole.body
    assert json.loads(whole.body)["choices"][0]["message"] == ANSWER["choices"][0]["message"]


def test_nor_is_a_usage_without_output_touched_where_nothing_was_said() -> None:
    silent = [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}
    body = json.dumps({**ANSWER, "choices": silent, "usage": usage}).encode()
    whole = normalize_completion(body, forwards=True, name="gen-1", prompt=PromptCount(7), created_s=99)
    assert (whole.body, whole.is_estimated) == (body, False)


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize(
    ("usage", "asked", "written"),
    [
        (None, 7, 1),
        ({"prompt_tokens": -1, "completion_tokens": 4}, 7, 1),
        ({"prompt_tokens": 0, "completion_tokens": 0}, 7, 1),
        ({"prompt_tokens": 9, "completion_tokens": 0}, 9, 1),
        ({"prompt_tokens": 0, "completion_tokens": 4}, 7, 4),
    ],
)
def test_missing_usage_is_estimated_and_marked(usage: Any, asked: int, written: int, forwards: bool) -> None:
    body, whole = read({**ANSWER, "usage": usage}, forwards=forwards)
    assert whole.is_estimated
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (asked, written)
    told = body["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]) == (asked, written, asked + written)


def test_the_text_of_every_choice_counts_up_to_the_held_maximum() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "x" * 99}}
    said = [
        {"role": "assistant", "content": "so " * 20, "reasoning": "hm " * 20},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    choices = [{"index": n, "message": message, "finish_reason": "stop"} for n, message in enumerate(said)]
    assert read({**ANSWER, "choices": choices})[1].usage == Usage(7, (60 + 60 + 1 + 99) // 5)
    assert read({**ANSWER, "choices": choices}, max_output=30)[1].usage == Usage(7, 30)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {**ANSWER, "choices": []},
        {**ANSWER, "choices": None},
        {**ANSWER, "choices": {}},
        {"error": {"message": "x"}},
        [],
        "x",
        7,
    ],
)
def test_an_invalid_completion_is_an_engine_error(answer: Any) -> None:
    with pytest.raises(EngineError, match=r"an invalid completion|without choices|reported an error"):
        read(answer)


def test_rubbish_is_the_engines_error() -> None:
    for body in (b"", b"<html>", b"\xff", b'{"choices": [{"x":'):
        with pytest.raises(EngineError, match="invalid completion"):
            normalize_completion(body, forwards=True, name="gen-1", prompt=PromptCount(7), created_s=99)
