"""Undocumented fields reach an engine only if its entry forwards them; the others are named in `x-dropped-fields`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support import catalogs, manners
from tests.support.ask import HELLO, check_refusal
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Behaviour, Upstream

LIMITS: dict[str, Any] = dict.fromkeys(
    ("n_predict", "max_new_tokens", "max_length", "ignore_eos", "min_tokens", "n_cmpl", "Max_Tokens"), 200
) | {"best_of": 4, "options": {"num_predict": 200}, "extra_body": {"n_predict": 200}, "nvext": {"ignore_eos": True}}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/api/chat-completions/": {"messages": HELLO},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/embeddings": {"input": "Hi", "model": "far"},
}


def behaviour(path: str) -> Behaviour:
    if path == "/v1/embeddings":
        vectors = {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}}
        return manners.body(json.dumps(vectors).encode())
    return manners.text(["so"]) if path == "/v1/completions" else manners.answer()


def ask(account: Account, path: str, **fields: Any) -> requests.Response:
    body = {"model": "standin", **PATHS[path], **fields}
    headers = account.headers | {"origin": "https://page.example"}
    return requests.post(account.server.url + path, json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_undocumented_fields_are_dropped_and_named(
    account: Account, upstream: Upstream, path: str, stream: bool
) -> None:
    unknown = {"top_k": 5, "new\r\nset-cookie: a=b": {"x": 1}, **LIMITS}
    streams = {} if path == "/v1/embeddings" else {"stream": stream}
    upstream.behave = behaviour(path)
    answer = ask(account, path, user="u", **streams, **unknown)
    assert answer.status_code == 200, answer.text
    names = answer.headers["x-dropped-fields"].split(", ")
    assert sorted(names) == sorted(["new??set-cookie??a?b", *(name for name in unknown if "\r" not in name)])
    assert answer.headers["access-control-expose-headers"] == "*"
    assert "set-cookie" not in answer.headers
    assert not upstream.last.body.keys() & unknown.keys()
    assert upstream.last.body["user"] == "u"


def test_documented_fields_are_not_named(account: Account, upstream: Upstream) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        upstream.behave = behaviour(path)
        assert "x-dropped-fields" not in ask(account, path, user="u", temperature=1, new=None).headers


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, standin: Upstream) -> Iterator[Account]:
    """A server that refuses unknown fields, and an engine that gets two of them."""
    catalog = catalogs.upstream("standin", standin.base_url, 'forwards = ["top_k", "guided_json"]')
    catalog += '\n[embedding.far]\ninput = "0.02"\ncontext = 8191\nengines = ["standin"]\n'
    env = {"MINITOOLAI_UNKNOWN_FIELDS": "refuse"}
    with ServerProcess(tmp_path_factory.mktemp("strict"), catalog=catalog, env=env) as server:
        yield server.account()


@pytest.mark.parametrize("path", PATHS)
def test_they_are_refused_where_the_operator_wants_it(strict: Account, upstream: Upstream, path: str) -> None:
    upstream.behave = behaviour(path)
    message = check_refusal(ask(strict, path, new=1, stream=False), 400, "invalid_request", "new")
    assert message == "new is not supported by this API. Leave it out"
    assert ask(strict, path, stream=False).status_code == 200


def test_what_the_entry_forwards_is_sent_and_held(strict: Account, upstream: Upstream) -> None:
    def held(**fields: Any) -> int:
        answer = ask(strict, "/v1/chat/completions", max_tokens=16, **fields)
        assert answer.status_code == 200, answer.text
        assert "x-dropped-fields" not in answer.headers
        amount: int = strict.server.generation(answer.headers["x-generation-id"])["hold_amount"]
        return amount

    plain = held()
    schema = {"type": "object", "properties": {"max_tokens": {"description": "x" * 1000}}}
    extra = held(top_k=5, guided_json=schema)
    assert (upstream.last.body["top_k"], upstream.last.body["guided_json"]) == (5, schema)
    # A token is never shorter than a byte; the price is $0.15 per million.
    assert extra - plain >= 1000 * 150
