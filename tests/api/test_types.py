"""Validate every response, chunk and error strictly against the types of OpenAI's package."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import manners
from tests.support.ask import API, OPENAI, events, get, post
from tests.support.server import Account, ServerProcess
from tests.support.strict import ImagesResponse, Model, check, check_chunks, check_completion, check_error
from tests.support.upstream import Upstream

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
#: Every field that changes the shape of a response.
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "limited": {"max_completion_tokens": 2},
    "tools": {"tools": [WEATHER], "tool_choice": "required"},
    "object": {"response_format": {"type": "json_object"}},
    "schema": {"response_format": SCHEMA},
    "logprobs": {"logprobs": True, "top_logprobs": 1},
    "choices": {"n": 3},
    "sampling": {"seed": 5, "stop": ["7"], "presence_penalty": 1, "frequency_penalty": -1, "top_p": 0.5},
    "bookkeeping": {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
}
WHOLE_SHAPES = list(itertools.product(SHAPES, (API, OPENAI)))


def check_both_ways(account: Account, path: str, **fields: Any) -> None:
    """Send a request with and without a stream, check every object, and compare their contents."""
    answer = post(account, path, stream=False, **fields)
    assert answer.status_code == 200, answer.text
    whole = check_completion(answer.json())
    assert whole.usage is not None
    streamed = post(account, path, stream=True, stream_options={"include_usage": True}, **fields)
    chunks = check_chunks(events(streamed.text))
    assert chunks[-1].usage == whole.usage
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    for choice in whole.choices:
        deltas = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in deltas) == (choice.message.content or "")
        assert [c.finish_reason for c in deltas if c.finish_reason] == [choice.finish_reason]
        calls = [call for c in deltas for call in c.delta.tool_calls or () if call.function]
        arguments = "".join(call.function.arguments or "" for call in calls if call.function)
        assert arguments == "".join(call.function.arguments for call in _calls(choice.message))
        tokens = [token for c in deltas if c.logprobs for token in c.logprobs.content or ()]
        assert len(tokens) == len((choice.logprobs and choice.logprobs.content) or ())


def _calls(message: Any) -> list[Any]:
    return message.tool_calls or []


@pytest.mark.parametrize(("shape", "path"), WHOLE_SHAPES, ids=lambda value: str(value).strip("/"))
def test_every_kind_of_response_fits_the_types(account: Account, shape: str, path: str) -> None:
    check_both_ways(account, path, **SHAPES[shape])


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("model", ["standin", "whole"])
def test_the_response_of_a_minimal_upstream_fits_the_types(
    account: Account, upstream: Upstream, model: str, lean: bool
) -> None:
    # Only `standin` may be incomplete; the catalog declares `whole` to be complete.
    upstream.behave = manners.answer(lean=lean and model == "standin")
    answer = post(account, OPENAI, model=model, stream=True, stream_options={"include_usage": True})
    assert check_chunks(events(answer.text))[-1].usage is not None
    check_completion(post(account, OPENAI, model=model).json())


@pytest.fixture
def embedded(llama_server: ServerProcess) -> Iterator[Account]:
    account = llama_server.account()
    yield account
    account.settled()
    assert llama_server.read(broken_invariants) == {}


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in ("tools", "choices")])
def test_the_response_of_the_embedded_model_fits_the_types(embedded: Account, shape: str) -> None:
    fields = {"max_completion_tokens": 12, "temperature": 0, **SHAPES[shape]}
    answer = post(embedded, OPENAI, model="gpt-4o-mini", **fields)
    assert answer.status_code == 200, answer.text
    check_completion(answer.json())
    streamed = post(embedded, OPENAI, model="gpt-4o-mini", stream=True, **fields)
    check_chunks(events(streamed.text))


def test_every_model_fits_the_type(account: Account, embedded: Account) -> None:
    for asking in (account, embedded):
        listed = get(asking, "/v1/models").json()
        assert set(listed) == {"object", "data"}
        for model in listed["data"]:
            assert check(Model, model) == check(Model, get(asking, f"/v1/models/{model['id']}").json())


@pytest.mark.parametrize("form", ["url", "b64_json"])
def test_images_fit_the_type(embedded: Account, form: str) -> None:
    body = {"model": "realvision", "prompt": "a red apple", "size": "256x256", "steps": 1, "response_format": form}
    url = embedded.server.url + "/v1/images/generations"
    answer = requests.post(url, json=body, headers=embedded.headers, timeout=120)
    assert answer.status_code == 200, answer.text
    (picture,) = check(ImagesResponse, answer.json()).data
    assert (picture.url is None, picture.b64_json is None) == (form == "b64_json", form == "url")


def test_every_refusal_fits_the_type(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.refuse(400)
    poor = account.server.account(credit=None)
    answers = {
        "wrong field": post(account, temperature=3),
        "no model": post(account, model="quik"),
        "no money": post(poor),
        "no key": requests.post(account.server.url + OPENAI, json={}, timeout=30),
        "no json": requests.post(account.server.url + OPENAI, data=b"x", headers=account.headers, timeout=30),
        "no path": get(account, "/v1/nothing"),
        "no method": requests.delete(account.server.url + OPENAI, headers=account.headers, timeout=30),
        "the engine's": post(account, model="standin"),
        "no engine": post(account, model="nowhere"),
        "no generation": get(account, "/v1/generations/gen-0"),
        "no response": get(account, "/v1/responses/resp_0"),
    }
    for what, answer in answers.items():
        assert answer.status_code >= 400, what
        assert check_error(answer.json()).message, what
    upstream.behave = manners.break_off("error")
    *_, fault = events(post(account, model="standin").text)
    check_error(fault)
