"""Upstream failures: the caller gets a clear error and is charged only for the output."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import requests

from minitoolai.billing.charging import Bound, Charging
from minitoolai.chat.router import Route
from minitoolai.chat.run import ChatPlan, ChatRun
from minitoolai.core.catalog.catalog import ChatModel, EngineEntry
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.counting import PromptCount
from minitoolai.core.in_flight import HEARTBEAT_AFTER_S
from minitoolai.core.inference import ChatRequest
from minitoolai.core.models import Caller
from minitoolai.engines.chat.fake import FakeEngine
from tests.support import manners
from tests.support.ask import check_refusal, events, post, said
from tests.support.books import CHAT, TemporaryBooks
from tests.support.server import Account
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

CREDIT = 5_000_000_000
PRICE_IN, PRICE_OUT = 150, 600
FULL_COST = manners.PROMPT_TOKENS * PRICE_IN + len(manners.WORDS) * PRICE_OUT


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (400, 400, "invalid_request"),
        (404, 400, "invalid_request"),
        (422, 400, "invalid_request"),
        (401, 502, "upstream_error"),
        (403, 502, "upstream_error"),
        (429, 429, "rate_limit_exceeded"),
        (408, 504, "upstream_timeout"),
        (500, 502, "upstream_error"),
        (502, 502, "upstream_error"),
        (503, 503, "overloaded"),
        (504, 504, "upstream_timeout"),
        (302, 502, "upstream_error"),
        (204, 502, "upstream_error"),
    ],
)
def test_an_upstream_error_is_mapped_and_costs_nothing(
    account: Account, upstream: Upstream, status: int, expected: int, code: str, stream: bool
) -> None:
    upstream.behave = manners.refuse(status, "secret words of the operator", retry_after="17")
    answer = post(account, model="standin", stream=stream)
    assert answer.status_code == expected, answer.text
    assert answer.json()["error"]["code"] == code
    assert account.settled() == CREDIT
    if status in (429, 503):
        assert answer.headers["retry-after"] == "17"
    if status in (401, 403, 500):
        assert "secret words" not in answer.text
    if status == 400:
        assert answer.json()["error"]["param"] == "messages"
        assert "secret words" in answer.text
    assert len(upstream.seen) == 1  # A retry could be billed twice.


def test_a_retry_after_that_is_a_date_does_not_harm(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.refuse(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")
    answer = post(account, model="standin")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def test_an_unreachable_upstream_is_an_immediate_502(account: Account) -> None:
    started_s = time.monotonic()
    check_refusal(post(account, model="nowhere"), 502, "upstream_error")
    assert time.monotonic() - started_s < 10
    assert account.settled() == CREDIT


@pytest.mark.parametrize("stream", [True, False])
def test_an_upstream_silent_before_its_head_times_out_and_costs_nothing(
    account: Account, upstream: Upstream, stream: bool
) -> None:
    upstream.behave = manners.hang_before_head
    started_s = time.monotonic()
    check_refusal(post(account, model="standin", stream=stream), 504, "upstream_timeout")
    assert 0.9 < time.monotonic() - started_s < 10
    assert account.settled() == CREDIT
    assert eventually(upstream.last.gone.is_set)


def test_an_upstream_silent_before_its_first_token_times_out_and_costs_nothing(
    account: Account, upstream: Upstream
) -> None:
    upstream.behave = manners.hang_before_token
    check_refusal(post(account, model="standin"), 504, "upstream_timeout")
    assert account.settled() == CREDIT
    assert eventually(upstream.last.gone.is_set)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("hang", "upstream_timeout"),
        ("reset", "upstream_error"),
        ("close", "upstream_error"),
        ("error", "upstream_error"),
    ],
)
@pytest.mark.parametrize("model", ["standin", "whole"])
@pytest.mark.parametrize("spaced", [False, True])
def test_a_stream_that_fails_midway_ends_in_an_error_without_done_and_is_charged(
    account: Account, upstream: Upstream, how: str, code: str, model: str, spaced: bool
) -> None:
    if how == "hang" and (model == "whole" or spaced):
        return  # Timeouts are slow, so test one case only.
    upstream.behave = manners.break_off(how, spaced=spaced)
    answer = post(account, model=model)
    assert answer.status_code == 200
    found = events(answer.text)
    assert said(found) == "".join(manners.WORDS)
    assert "[DONE]" not in found
    assert set(found[-1]) == {"error"}
    assert found[-1]["error"]["code"] == code
    # Without a reported usage, tokens are estimated, the prompt by its bytes, and the statement says so.
    charged = CREDIT - account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["estimated"], row["output_units"]) == ("failed", 1, len(manners.WORDS))
    assert 0 < charged == row["cost"] <= row["hold_amount"]
    assert eventually(upstream.last.gone.is_set) if how != "error" else True


def test_a_role_does_not_satisfy_the_first_token_timeout(account: Account, upstream: Upstream) -> None:
    async def behave(exchange: Any) -> None:
        exchange.begin()
        exchange.event(manners.chunk({"role": "assistant", "content": ""}))
        await exchange.hang()

    upstream.behave = behave
    started_s = time.monotonic()
    found = events(post(account, model="standin").text)
    assert found[-1]["error"]["code"] == "upstream_timeout"
    assert time.monotonic() - started_s < 10
    assert account.settled() == CREDIT


#: Requests that are answered whole.
WHOLE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "standin", "messages": [{"role": "user", "content": "Hello"}]},
    "/api/chat-completions/": {
        "model": "standin",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": False,
    },
    "/v1/completions": {"model": "standin", "prompt": "Hello"},
    "/v1/responses": {"model": "standin", "input": "Hello"},
    "/v1/embeddings": {"model": "far", "input": "Hello"},
}


@pytest.mark.parametrize("path", WHOLE)
def test_a_whole_response_has_no_first_token(account: Account, upstream: Upstream, path: str) -> None:
    async def behave(exchange: Any) -> None:
        await asyncio.sleep(1.8)
        if exchange.path.endswith("/embeddings"):
            found = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            told = {"prompt_tokens": 4, "total_tokens": 4}
            exchange.answer(200, {"object": "list", "data": found, "model": manners.MODEL, "usage": told})
        elif exchange.path.endswith("/chat/completions"):
            await manners.answer()(exchange)
        else:
            await manners.text(manners.WORDS)(exchange)

    upstream.behave = behave
    answer = requests.post(account.server.url + path, json=WHOLE[path], headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    left = account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], CREDIT - left) == ("succeeded", row["cost"])
    assert row["cost"] > 0


SIGNS_OF_LIFE: dict[str, dict[str, Any]] = {
    "reasoning": {"reasoning": "hm "},
    "reasoning_content": {"reasoning_content": "hm "},
    "a tool call": {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}]},
    "an empty delta": {},
    "an empty text": {"content": ""},
    "a role": {"role": "assistant", "content": None},
}


@pytest.mark.parametrize("sign", SIGNS_OF_LIFE)
def test_every_event_of_a_choice_is_a_sign_of_life(account: Account, upstream: Upstream, sign: str) -> None:
    async def behave(exchange: Any) -> None:
        exchange.begin()
        for _ in range(4):
            exchange.event(manners.chunk(SIGNS_OF_LIFE[sign]))
            await asyncio.sleep(0.45)
        exchange.event(manners.chunk({"content": "Saturn"}, finish="stop"))
        exchange.event({**manners.head("chat.completion.chunk"), "choices": [], "usage": manners.usage(2)})
        exchange.event("[DONE]")
        exchange.end()

    upstream.behave = behave
    assert events(post(account, model="standin").text)[-1] == "[DONE]"


def test_comments_are_no_sign_of_life(account: Account, upstream: Upstream) -> None:
    async def behave(exchange: Any) -> None:
        exchange.begin()
        while not exchange.gone.is_set():
            exchange.write(b": still here\n\n")
            await asyncio.sleep(0.2)

    upstream.behave = behave
    began_s = time.monotonic()
    check_refusal(post(account, model="standin"), 504, "upstream_timeout")
    assert 0.9 < time.monotonic() - began_s < 2.4
    assert account.settled() == CREDIT


def test_an_error_event_before_the_first_token_costs_nothing(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("error", words=())
    message = check_refusal(post(account, model="standin"), 502, "upstream_error")
    assert message == "the engine reported an error and ended its answer"
    assert account.settled() == CREDIT


def test_a_stream_without_usage_is_charged_by_our_own_count_and_marked(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(with_usage=False)
    answer = post(account, model="standin")
    found = events(answer.text)
    assert found[-1] == "[DONE]"
    assert found[-2]["usage"]["completion_tokens"] == len(manners.WORDS)
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["estimated"], row["output_units"]) == ("succeeded", 1, len(manners.WORDS))
    assert CREDIT - account.settled() == row["cost"] > 0


def test_a_stream_without_its_done_is_whole_if_the_usage_came(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(done=False)
    found = events(post(account, model="standin").text)
    assert found[-1] == "[DONE]"
    assert CREDIT - account.settled() == FULL_COST


def test_a_finish_reason_is_an_end_without_usage_and_done(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(done=False, with_usage=False)
    answer = post(account, model="standin")
    assert events(answer.text)[-1] == "[DONE]"
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["estimated"]) == ("succeeded", 1)
    assert account.settled() < CREDIT


def test_an_end_of_file_without_a_finish_reason_is_an_error(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("end")
    answer = post(account, model="standin")
    found = events(answer.text)
    assert found[-1]["error"]["code"] == "upstream_error"
    assert "[DONE]" not in found
    assert account.settled() < CREDIT
    assert account.server.generation(answer.headers["x-generation-id"])["state"] == "failed"


def test_an_endless_stream_is_cut_off_and_its_output_charged(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["word "] * 1000, delay_s=0.02)
    found = events(post(account, model="standin", max_completion_tokens=4096).text)
    assert found[-1]["error"]["code"] == "upstream_timeout"
    assert CREDIT - account.settled() >= (len(found) - 3) * PRICE_OUT
    assert eventually(upstream.last.gone.is_set)


def test_a_heartbeat_is_sent_every_fifteen_seconds_of_silence(sqlite_books: TemporaryBooks) -> None:
    books, account = sqlite_books, sqlite_books.account(100_000)
    at_s: list[float] = []

    class Service:
        clock = books.clock

        def timeouts(self, engine: Any) -> tuple[float, float]:
            return 60.0, 600.0

    class Output:
        is_silent = True

        def break_silence(self) -> None:
            at_s.append(books.clock.steady_s() - started_s)

    started_s = books.clock.steady_s()

    async def work(charging: Charging) -> None:
        service: Any = Service()
        service.charging = charging
        bound = Bound(base=100, unit=10, units=50, least_units=16)
        held = await charging.reserve(Caller(account, "key000000001"), bound, CHAT)
        request = ChatRequest("quick", [], {}, stream=True, include_usage=False, limit=None)
        engine = FakeEngine("quick", EngineEntry(kind="fake", model="fake-1"))
        run = ChatRun(
            service,
            ChatPlan(
                request,
                ChatModel("quick", Prices.of_nano(150, 600), 8192, 50, ("quick",), None),
                Route(service, "quick", [engine], started_s),
                50,
                bound,
                PromptCount(3),
            ),
            held,
        )
        output = run.output = Output()
        for _ in range(70):
            books.clock.forward(0.5)
            run.tick(books.clock.steady_s())
        # A write starts the silence anew.
        output.is_silent = False
        for _ in range(32):
            books.clock.forward(0.5)
            run.tick(books.clock.steady_s())

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert at_s == [HEARTBEAT_AFTER_S, 2 * HEARTBEAT_AFTER_S, 35.5 + HEARTBEAT_AFTER_S]
    assert HEARTBEAT_AFTER_S == 15.0


@pytest.mark.parametrize("stream", [True, False])
def test_a_response_is_charged_for_the_usage_that_it_shows(account: Account, stream: bool) -> None:
    answer = post(account, "/v1/chat/completions", model="quick", stream=stream, stream_options={"include_usage": True})
    assert answer.status_code == 200, answer.text
    last = events(answer.text)[-2] if stream else answer.json()
    usage = last["usage"]
    assert usage["completion_tokens"] > 0
    assert CREDIT - account.settled() == usage["prompt_tokens"] * PRICE_IN + usage["completion_tokens"] * PRICE_OUT
