"""Whatever an upstream does, the caller gets a clear error and pays for nothing but what was written."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support import manners
from tests.support.ask import check_refusal, events, post, said
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
def test_a_refusing_upstream_is_told_on_and_costs_nothing(
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
    assert len(upstream.seen) == 1  # Never sent twice: it might be billed twice.


def test_a_retry_after_that_is_a_date_does_not_harm(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.refuse(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")
    answer = post(account, model="standin")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def test_an_upstream_that_is_not_there_is_a_502_at_once(account: Account) -> None:
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
def test_a_stream_broken_off_ends_in_an_error_without_done_and_charges_what_was_written(
    account: Account, upstream: Upstream, how: str, code: str, model: str, spaced: bool
) -> None:
    if how == "hang" and (model == "whole" or spaced):
        return  # Time-outs are slow: once is enough.
    upstream.behave = manners.break_off(how, spaced=spaced)
    answer = post(account, model=model)
    assert answer.status_code == 200
    found = events(answer.text)
    assert said(found) == "".join(manners.WORDS)
    assert "[DONE]" not in found
    assert set(found[-1]) == {"error"}
    assert found[-1]["error"]["code"] == code
    # No usage came: the tokens are counted by us, the prompt by its bytes, and the statement says so.
    charged = CREDIT - account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["estimated"], row["output_units"]) == ("failed", 1, len(manners.WORDS))
    assert 0 < charged == row["cost"] <= row["hold_amount"]
    assert eventually(upstream.last.gone.is_set) if how != "error" else True


def test_a_role_is_no_token_for_the_first_token_time_out(account: Account, upstream: Upstream) -> None:
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


def test_an_error_event_before_the_first_token_costs_nothing(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("error", words=())
    message = check_refusal(post(account, model="standin"), 502, "upstream_error")
    assert "the GPU fell off" in message
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


def test_a_stream_with_neither_usage_nor_done_was_broken_off(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(done=False, with_usage=False)
    found = events(post(account, model="standin").text)
    assert found[-1]["error"]["code"] == "upstream_error"
    assert account.settled() < CREDIT


def test_an_answer_that_never_ends_is_cut_and_what_was_written_is_charged(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["word "] * 1000, delay_s=0.02)
    found = events(post(account, model="standin", max_completion_tokens=4096).text)
    assert found[-1]["error"]["code"] == "upstream_timeout"
    assert CREDIT - account.settled() >= (len(found) - 3) * PRICE_OUT
    assert eventually(upstream.last.gone.is_set)
