"""An answer that is not streamed: every documented field, whatever the engine left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.normalizer import whole_answer
from minitoolai.core.errors import EngineError

CHOICES = [{"index": 0, "message": {"role": "assistant", "content": "Grüße"}, "finish_reason": "stop"}]
ANSWER = {"id": "c1", "object": "chat.completion", "created": 5, "model": "m", "choices": CHOICES}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4}


def read(answer: Any, *, forwards: bool = False) -> tuple[dict[str, Any], Any, str, int]:
    body, usage, model, tokens = whole_answer(
        json.dumps(answer).encode(), forwards=forwards, name="gen-1", prompt=7, created_s=99
    )
    return json.loads(body), usage, model, tokens


def test_what_the_engine_leaves_out_is_filled_in() -> None:
    body, usage, model, _ = read({"model": "m", "choices": CHOICES, "usage": USAGE})
    assert body["choices"] == CHOICES
    assert (body["object"], body["service_tier"], body["usage"]["total_tokens"]) == ("chat.completion", "default", 13)
    assert body["system_fingerprint"].startswith("fp_")
    assert (body["id"], body["created"]) == ("chatcmpl-1", 99)
    assert set(body["usage"]) == {
        "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details",
    }  # fmt: skip
    assert (usage.prompt_tokens, usage.completion_tokens, model) == (9, 4, "m")


def test_a_complete_answer_is_forwarded_to_the_byte() -> None:
    body = json.dumps({**ANSWER, "usage": USAGE, "more": 1}, indent=1).encode()
    assert whole_answer(body, forwards=True, name="gen-1", prompt=7, created_s=99)[0] == body


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -1, "completion_tokens": 4}])
def test_without_a_usage_our_own_count_is_shown_and_marked_as_ours(usage: Any, forwards: bool) -> None:
    body, engines_own, _, tokens = read({**ANSWER, "usage": usage}, forwards=forwards)
    assert engines_own is None
    assert tokens > 0
    assert body["usage"]["prompt_tokens"] == 7
    assert body["usage"]["completion_tokens"] == tokens


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
def test_what_is_no_completion_is_the_engines_error(answer: Any) -> None:
    with pytest.raises(EngineError, match=r"no completion|without choices"):
        read(answer)


def test_rubbish_is_the_engines_error() -> None:
    for body in (b"", b"<html>", b"\xff", b'{"choices": [{"x":'):
        with pytest.raises(EngineError, match="no completion"):
            whole_answer(body, forwards=True, name="gen-1", prompt=7, created_s=99)
