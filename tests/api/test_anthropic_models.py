"""The list of models in Anthropic's format, for clients that send the header `anthropic-version`."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from anthropic.types import ModelInfo

from tests.support.claude import check_error
from tests.support.server import Account

VERSION = {"anthropic-version": "2023-06-01"}


def get(account: Account, path: str = "", headers: dict[str, str] | None = None, **query: str) -> requests.Response:
    sent = VERSION | {"x-api-key": account.key} if headers is None else headers
    return requests.get(f"{account.server.url}/v1/models{path}", headers=sent, params=query, timeout=30)


def page(account: Account, **query: str) -> Any:
    found = get(account, **query).json()
    for model in found["data"]:
        ModelInfo.model_validate_json(json.dumps(model), strict=True)
    return found


def test_chat_models_are_listed_in_pages(account: Account) -> None:
    everything = page(account, limit="1000")
    names = [model["id"] for model in everything["data"]]
    assert "quick" in names
    assert "vectors" not in names
    assert (everything["has_more"], everything["first_id"], everything["last_id"]) == (False, names[0], names[-1])
    first = page(account, limit="2")
    assert ([model["id"] for model in first["data"]], first["has_more"]) == (names[:2], True)
    following = page(account, limit="2", after_id=first["last_id"])
    assert [model["id"] for model in following["data"]] == names[2:4]
    before = page(account, limit="1", before_id=names[2])
    assert ([model["id"] for model in before["data"]], before["has_more"]) == ([names[1]], True)


def test_one_model(account: Account) -> None:
    model = get(account, "/quick").json()
    ModelInfo.model_validate_json(json.dumps(model), strict=True)
    assert (model["id"], model["max_input_tokens"], model["max_tokens"]) == ("quick", 8192, 4096)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "x"},
        {"limit": "1001"},
        {"after_id": "no-such-model"},
        {"after_id": "a", "before_id": "b"},
    ],
)
def test_a_wrong_page_is_refused(account: Account, query: dict[str, str]) -> None:
    answer = get(account, **query)
    assert (answer.status_code, check_error(answer.json())[0]) == (400, "invalid_request_error")


def test_errors_have_anthropics_format(account: Account) -> None:
    answer = get(account, "/no-such-model")
    assert (answer.status_code, check_error(answer.json())[0]) == (404, "not_found_error")
    answer = get(account, headers=VERSION)
    assert (answer.status_code, check_error(answer.json())[0]) == (401, "authentication_error")


def test_without_the_header_the_list_is_openais(account: Account) -> None:
    answer = get(account, headers={"x-api-key": account.key}).json()
    assert answer["object"] == "list"
    assert "has_more" not in answer
