"""Image inputs with a stand-in upstream: the documented example is sent unchanged, its tokens bounded by `detail`."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
import requests
from PIL import Image

from tests.support import manners
from tests.support.ask import API, OPENAI, check_refusal, events, post, said
from tests.support.server import Account
from tests.support.upstream import Upstream

CREDIT = 5_000_000_000
#: The example from the API documentation.
EXAMPLE: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "developer", "content": "You are a helpful assistant."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in this picture?"},
                {"type": "image_url", "image_url": {"url": "https://93.184.216.34/picture.jpg", "detail": "auto"}},
            ],
        },
    ],
    "temperature": 0.7,
    "max_completion_tokens": 300,
}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (10, 200, 30)).save(file, "png")
    return file.getvalue()


def with_picture(url: str, detail: str = "auto") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, "detail": detail}}]}]


@pytest.mark.parametrize("path", [API, OPENAI])
def test_the_example_is_passed_unchanged_to_an_upstream_that_fetches_urls(
    account: Account, upstream: Upstream, path: str
) -> None:
    upstream.behave = manners.answer(["A ", "cat."])
    answer = requests.post(
        account.server.url + path, json={**EXAMPLE, "stream": True}, headers=account.headers, timeout=30
    )
    assert said(events(answer.text)) == "A cat."
    assert upstream.last.body["messages"] == EXAMPLE["messages"]
    row = account.server.generation(answer.headers["x-generation-id"])
    # 1,445 tokens are the most that a picture of this model counts; `auto` may be `high`.
    assert row["hold_amount"] >= 1445 * 150 + 300 * 600
    assert CREDIT - account.settled() == manners.PROMPT_TOKENS * 150 + 2 * 600


@pytest.mark.parametrize(("detail", "tokens"), [("low", 85), ("high", 1445), ("auto", 1445)])
def test_a_picture_is_held_at_the_most_that_its_detail_counts(
    account: Account, upstream: Upstream, detail: str, tokens: int
) -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    amounts = []
    for messages in (with_picture(url, detail), [{"role": "user", "content": [{"type": "text", "text": ""}]}]):
        answer = post(account, model="standin", messages=messages)
        amounts.append(account.server.generation(answer.headers["x-generation-id"])["hold_amount"])
    assert amounts[0] - amounts[1] == tokens * 150


def test_a_data_url_arrives_as_the_kind_that_it_is(account: Account, upstream: Upstream) -> None:
    data = base64.b64encode(png()).decode()
    post(account, model="standin", messages=with_picture(f"data:image/jpg;base64,{data}", "low"))
    sent = upstream.last.body["messages"][0]["content"][0]["image_url"]
    assert sent == {"url": f"data:image/png;base64,{data}", "detail": "low"}


def test_an_invalid_image_costs_nothing_and_is_sent_to_no_upstream(account: Account, upstream: Upstream) -> None:
    answer = post(account, model="standin", messages=with_picture("data:image/png;base64,aGVsbG8="))
    check_refusal(answer, 400, "invalid_image", "messages[0].content[0].image_url.url")
    assert (account.settled(), upstream.seen) == (CREDIT, [])


@pytest.mark.parametrize("url", ["https://127.0.0.1/a.png", "https://10.0.0.1/a.png", "https://localhost/a.png"])
def test_private_addresses_are_never_fetched_for_an_engine(account: Account, upstream: Upstream, url: str) -> None:
    answer = post(account, model="fetched", messages=with_picture(url))
    check_refusal(answer, 400, "url_not_allowed", "messages[0].content[0].image_url.url")
    assert (account.settled(), upstream.seen) == (CREDIT, [])
