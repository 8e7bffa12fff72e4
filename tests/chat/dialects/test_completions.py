"""Tests of `/v1/completions`: text completions by every kind of engine, charged like chats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import manners
from tests.support.ask import check_refusal, events
from tests.support.server import Account, ServerProcess
from tests.support.strict import Completion, check, check_texts
from tests.support.upstream import Upstream

PATH = "/v1/completions"
CREDIT = 5_000_000_000


def ask(account: Account, **fields: Any) -> requests.Response:
    body = {"model": "quick", "prompt": "Once upon a time", **fields}
    return requests.post(account.server.url + PATH, json=body, headers=account.headers, timeout=60)


def whole(account: Account, **fields: Any) -> Any:
    answer = ask(account, **fields)
    assert answer.status_code == 200, answer.text
    return check(Completion, answer.json())


def test_a_text_is_continued(account: Account) -> None:
    found = whole(account, max_tokens=5)
    assert found.choices[0].text == "token-0 token-1 token-2 token-3 token-4 "
    assert found.choices[0].finish_reason == "length"
    assert found.id.startswith("cmpl-")
    assert account.settled() == CREDIT - 4 * 150 - 5 * 600


def test_a_stream_tells_the_same(account: Account) -> None:
    answer = ask(account, stream=True, stream_options={"include_usage": True}, max_tokens=20)
    chunks = check_texts(events(answer.text))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole(account).choices[0].text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all("usage" not in event for event in events(ask(account, stream=True).text)[:-1])


@pytest.mark.parametrize("prompt", [["one two", "three"], [[1, 2], [3]]])
def test_several_prompts_are_several_choices_and_each_is_charged(account: Account, prompt: Any) -> None:
    found = whole(account, prompt=prompt, n=2, max_tokens=3)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert account.settled() == CREDIT - 3 * 150 - 12 * 600


def test_logprobs_have_the_old_form_with_offsets(account: Account) -> None:
    told = whole(account, logprobs=1, max_tokens=2).choices[0].logprobs
    assert (told.tokens, told.text_offset) == (["token-0 ", "token-1 "], [0, 8])
    chunks = check_texts(events(ask(account, logprobs=1, max_tokens=2, stream=True).text))
    assert [c.logprobs.text_offset for chunk in chunks for c in chunk.choices if c.logprobs] == [[0], [8]]


@pytest.mark.parametrize("model", ["standin", "whole"])
@pytest.mark.parametrize("stream", [False, True])
def test_text_completions_use_the_upstreams_completions_path(
    account: Account, upstream: Upstream, model: str, stream: bool
) -> None:
    upstream.behave = manners.text(["Ätna ", "雪 ", "🌋"])
    fields = {"stop": ["x"], "echo": False, "suffix": "s", "user": "u"}
    answer = ask(account, model=model, stream=stream, max_tokens=7, **fields)
    assert answer.status_code == 200, answer.text
    if stream:
        found = check_texts(events(answer.text))
        assert "".join(choice.text for chunk in found for choice in chunk.choices) == "Ätna 雪 🌋"
    else:
        assert check(Completion, answer.json()).choices[0].text == "Ätna 雪 🌋"
    sent = upstream.last
    assert sent.path == "/v1/completions"
    assert sent.body.items() >= {"prompt": "Once upon a time", "max_tokens": 7, **fields}.items()
    assert "messages" not in sent.body
    assert account.settled() == CREDIT - manners.PROMPT_TOKENS * 150 - 3 * 600


@pytest.mark.parametrize("stream", [False, True])
def test_only_one_limit_field_is_sent_to_a_completions_upstream(
    account: Account, upstream: Upstream, stream: bool
) -> None:
    upstream.behave = manners.text(["so"])
    hidden = {"n_predict": 200, "max_completion_tokens": 200, "best_of": 4, "n": 1, "extra_body": {"max_tokens": 200}}
    answer = ask(account, model="standin", stream=stream, max_tokens=7, **hidden)
    sent = upstream.last.body
    assert (sent["max_tokens"], sent["n"]) == (7, 1)
    assert not {"n_predict", "max_completion_tokens", "best_of"} & set(sent)
    # The hold covers one completion of seven tokens, not `best_of` of them.
    row = account.server.generation(answer.headers["x-generation-id"])
    assert row["hold_amount"] < 100 * 150 + 8 * 600


def test_a_completions_upstream_that_fails_midway_ends_in_an_error(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.text(["half "], fault={"error": {"message": "the GPU fell off", "code": 500}})
    found = events(ask(account, model="standin", stream=True).text)
    assert found[-1]["error"]["code"] == "upstream_error"
    assert "GPU" not in found[-1]["error"]["message"]
    upstream.behave = manners.refuse(404, "This is a chat model and not supported in the v1/completions endpoint.")
    assert "chat model" in check_refusal(ask(account, model="standin"), 400, "invalid_request", "prompt")


def test_a_model_without_text_completions_is_refused_with_the_names_of_others(account: Account) -> None:
    message = check_refusal(ask(account, model="plain"), 400, "invalid_request", "prompt")
    assert "quick" in message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x", ""]}, "prompt[1]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 21}, "best_of"),
        ({"echo": 1}, "echo"),
        ({"stop": 5}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"stream_options": 5}, "stream_options"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(account: Account, fields: dict[str, Any], param: str) -> None:
    check_refusal(ask(account, **fields), 400, "invalid_request", param)
    assert account.money().posted == CREDIT


@pytest.fixture
def embedded(llama_server: ServerProcess) -> Iterator[Account]:
    account = llama_server.account()
    yield account
    account.settled()
    assert llama_server.read(broken_invariants) == {}


def test_a_prompt_that_exceeds_the_context_names_the_fields_of_this_format(embedded: Account) -> None:
    answer = ask(embedded, model="gpt-4o-mini", prompt="word " * 5_000)
    assert "shorten the prompt or lower max_tokens" in check_refusal(answer, 400, "context_length_exceeded", "prompt")


def test_the_embedded_model_continues_text(embedded: Account) -> None:
    with openai.OpenAI(base_url=embedded.server.url + "/v1", api_key=embedded.key, max_retries=0) as client:
        fields: dict[str, Any] = {"model": "gpt-4o-mini", "prompt": "Once upon a time", "temperature": 0}
        found = client.completions.create(**fields, max_tokens=6, logprobs=1)
        assert found.model == "smollm2-135m-instruct"
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 6)
        assert found.choices[0].logprobs is not None
        assert "".join(found.choices[0].logprobs.tokens or ()) == found.choices[0].text
        pieces = list(client.completions.create(**fields, max_tokens=6, stream=True))
        assert "".join(piece.choices[0].text for piece in pieces) == found.choices[0].text
        tokens = client.completions.create(model="gpt-4o-mini", prompt=[504, 2232], max_tokens=2)
        assert tokens.usage is not None
        assert tokens.usage.prompt_tokens == 2
    assert embedded.settled() == CREDIT - 10 * 150 - 14 * 600


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"echo": True}, "echo"), ({"suffix": "s"}, "suffix"), ({"n": 2}, "n"), ({"prompt": ["a", "b"]}, "prompt")],
    ids=str,
)
def test_fields_that_the_embedded_model_does_not_support_for_text_are_named(
    embedded: Account, fields: dict[str, Any], param: str
) -> None:
    check_refusal(ask(embedded, model="gpt-4o-mini", **fields), 400, "invalid_request", param)


def test_a_text_beyond_the_context_is_refused(embedded: Account) -> None:
    answer = ask(embedded, model="gpt-4o-mini", prompt="moon " * 6000)
    check_refusal(answer, 400, "context_length_exceeded", "prompt")
