"""Use the API with OpenAI's own Python client, of which only the base URL is changed."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.support import manners
from tests.support.server import Account
from tests.support.upstream import Upstream

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "developer", "content": "You are terse."},
    {"role": "user", "content": "Which planet has the most moons?"},
]


@pytest.fixture
def client(account: Account) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=account.server.url + "/v1", api_key=account.key, max_retries=0, timeout=30) as made:
        yield made


def test_a_chat_without_a_stream_works(client: openai.OpenAI, upstream: Upstream) -> None:
    answer = client.chat.completions.create(model="standin", messages=QUESTION, max_completion_tokens=50)
    assert answer.choices[0].message.content == "".join(manners.WORDS)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == manners.MODEL
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(manners.WORDS)
    assert upstream.last.body["messages"] == QUESTION


def test_a_stream_can_end_with_usage(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["Ätna ", "雪 ", "🌋"], lean=True)
    stream = client.chat.completions.create(
        model="standin", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "Ätna 雪 🌋"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == manners.PROMPT_TOKENS + 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_has_no_usage_by_default_and_can_be_closed_early(client: openai.OpenAI, account: Account) -> None:
    stream = client.chat.completions.create(model="quick", messages=QUESTION, stream=True)
    assert all(chunk.usage is None for chunk in stream)
    with client.chat.completions.create(model="endless", messages=QUESTION, stream=True) as long:
        assert next(iter(long)).model == "fake-endless-1"
    assert account.settled(within_s=2) < 5_000_000_000


def test_responses_and_errors_have_a_request_id(client: openai.OpenAI, account: Account) -> None:
    first, second = (client.chat.completions.create(model="quick", messages=QUESTION) for _ in range(2))
    assert first._request_id
    assert second._request_id
    assert first._request_id != second._request_id
    named = client.chat.completions.create(model="quick", messages=QUESTION, extra_headers={"x-request-id": "order-7"})
    assert named._request_id == "order-7"
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="nobody", messages=QUESTION, extra_headers={"x-request-id": "a\tb"})
    assert refused.value.request_id
    assert refused.value.request_id != "a\tb"


def test_models_can_be_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert "quick" in [model.id for model in client.models.list()]
    assert client.models.retrieve("quick").id == "quick"


def test_the_response_has_a_generation_id(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="quick", messages=QUESTION)
    assert raw.headers["x-generation-id"].startswith("gen-")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_an_upstream_failure_raises_the_clients_error_class(
    client: openai.OpenAI, upstream: Upstream, status: int, error: type[openai.APIStatusError]
) -> None:
    upstream.behave = manners.refuse(status)
    with pytest.raises(error):
        client.chat.completions.create(model="standin", messages=QUESTION)


def test_a_refusal_raises_the_clients_error_class(client: openai.OpenAI, account: Account) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="quik", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="quick", messages=QUESTION, temperature=2.1)
    assert wrong.value.param == "temperature"
    poor = client.with_options(api_key=account.server.account(credit=None).key)
    with pytest.raises(openai.APIStatusError) as unpaid:
        poor.chat.completions.create(model="quick", messages=QUESTION)
    assert (unpaid.value.status_code, unpaid.value.code) == (402, "insufficient_balance")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong").models.list()


def test_an_error_in_the_middle_of_a_stream_is_raised(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("error")
    with pytest.raises(openai.APIError, match="reported an error"):
        list(client.chat.completions.create(model="standin", messages=QUESTION, stream=True))
