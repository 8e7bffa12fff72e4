"""Routing, fallback, retries and circuit breaker with two upstreams: response, charge and records are right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from minitoolai.chat.circuit_breaker import MIN_ACCOUNTS, MIN_CALLS
from tests.support import manners
from tests.support.ask import events, get, post, said
from tests.support.cli import Cli
from tests.support.server import Account
from tests.support.stage import UpstreamsBehindServer
from tests.support.upstream import Behaviour, Exchange
from tests.support.waiting import eventually

CREDIT = 5_000_000_000
FULL_COST = manners.PROMPT_TOKENS * 150 + len(manners.WORDS) * 600
ANSWER = "".join(manners.WORDS)


class Two(UpstreamsBehindServer):
    """Two stand-in upstreams, `a` and `b`, and the server in front of them."""

    COUNT = 2

    def catalog(self) -> str:
        engines = {
            "gone": 'base_url = "http://127.0.0.1:9/v1"\ncooldown_after = 0',
            "first": f'base_url = "{self.a.base_url}"\nfirst_token_timeout_s = 1.0\ntotal_timeout_s = 1.5\n'
            "cooldown_after = 0",
            "second": f'base_url = "{self.b.base_url}"\nfirst_token_timeout_s = 3.0\ncooldown_after = 0\n'
            "fetches_images = true",
            "tired": f'base_url = "{self.a.base_url}"\nretries = 0\ncooldown_after = 2\ncooldown_s = 3.0',
            "slowed": f'base_url = "{self.a.base_url}"\nretries = 0',
            "narrow": f'base_url = "{self.a.base_url}"\nconcurrency = 2\nwaiting = 3\ncooldown_after = 0\n'
            'cost_input = "0.05"\ncosts = { narrow = { input = "0.10", output = "0.40" } }',
            "shut": 'base_url = "http://127.0.0.1:9/v1"\nretries = 0\ncooldown_s = 3.0',
            "strict": f'base_url = "{self.a.base_url}"\ncooldown_s = 3.0',
            "shared": f'base_url = "{self.a.base_url}"\nretries = 0\ncooldown_s = 3.0',
            "stranger": f'base_url = "{self.a.base_url}"\nretries = 0\ncooldown_s = 3.0',
            "blind": f'base_url = "{self.a.base_url}"\nvision = false',
        }
        models = {
            "solo": ["first"], "pair": ["first", "second"], "gone": ["gone"], "gone-pair": ["gone", "second"],
            "stand-in": ["first", "quick"], "tired": ["tired"], "tired-pair": ["tired", "second"], "slowed": ["slowed"],
            "slowed-pair": ["slowed", "second"], "narrow": ["narrow"], "narrow-pair": ["narrow", "second"],
            "seeing": ["blind", "second"], "shut": ["shut"], "strict": ["strict"], "strict-pair": ["strict", "second"],
            "stranger": ["stranger"], "shared": ["shared"],
        }  # fmt: skip
        text = '[engines.quick]\nkind = "fake"\nmodel = "fake-quick-1"\n'
        text += "".join(
            f'\n[engines.{name}]\nkind = "upstream"\npublic_name = "{name}"\n{lines}\n'
            for name, lines in engines.items()
        )
        for name, order in models.items():
            listed = ", ".join(f'"{engine}"' for engine in order)
            text += f'\n[chat."{name}"]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\n'
            text += f"image_tokens = {{ low = 85, high = 1_445 }}\nengines = [{listed}]\n"
        return text


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with Two.running(tmp_path_factory.mktemp("two")) as two:
        yield two


@pytest.fixture
def two(both: Two) -> Iterator[Two]:
    """Reset both upstreams. After each test, check that nothing is held and all invariants hold."""
    with both.reset():
        yield both


@pytest.fixture
def account(two: Two) -> Account:
    return two.server.account()


def record(account: Account, answer: Any) -> dict[str, Any]:
    """Return the generation of a response, as shown to its owner."""
    account.settled()
    found: dict[str, Any] = get(account, f"/v1/generations/{answer.headers['x-generation-id']}").json()
    return found


def asked(generation: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(attempt["engine"], attempt["error_code"]) for attempt in generation["attempts"]]


#: Failures of the first upstream before the first byte: (behaviour, recorded error code).
FAILURES: dict[str, tuple[Behaviour | None, str]] = {
    "refused": (None, "upstream_error"),
    "500": (manners.refuse(500), "upstream_error"),
    "503": (manners.refuse(503), "overloaded"),
    "401": (manners.refuse(401), "upstream_error"),
    "429": (manners.refuse(429, retry_after="30"), "rate_limit_exceeded"),
    "hang": (manners.hang_before_head, "upstream_timeout"),
    "hang after the head": (manners.hang_before_token, "upstream_timeout"),
    "cut": (manners.raw(b""), "upstream_error"),
    "rubbish": (manners.body(b"data: nonsense\n\n"), "upstream_error"),
    "error event": (manners.break_off("error", words=()), "upstream_error"),
    "error after the role": (manners.break_off("error", words=("",)), "upstream_error"),
    "end of file after the role": (manners.break_off("end", words=("",)), "upstream_error"),
    "error object": (manners.json_body({"error": {"message": "no", "code": 500}}), "upstream_error"),
    "HTML": (manners.body(b"<!DOCTYPE html>\n\n<html>Sign in</html>"), "upstream_error"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("failure", FAILURES)
def test_the_second_answers_where_the_first_fails_before_its_first_byte(
    two: Two, account: Account, failure: str, stream: bool
) -> None:
    behave, code = FAILURES[failure]
    first = "gone" if behave is None else "first"
    if behave is not None:
        two.a.behave = behave
    answer = post(account, model="gone-pair" if behave is None else "pair", stream=stream)
    assert answer.status_code == 200, answer.text
    if stream:
        found = events(answer.text)
        assert (said(found), found[-1]) == (ANSWER, "[DONE]")
    else:
        assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    generation = record(account, answer)
    assert (generation["state"], generation["engine"], generation["error_code"]) == ("succeeded", "second", None)
    assert asked(generation) == [(first, code), ("second", None)]
    assert generation["attempts"][1]["after_ms"] >= generation["attempts"][0]["took_ms"] - 1
    assert CREDIT - account.settled() == FULL_COST
    assert two.server.transfers_of(answer.headers["x-generation-id"]) == [FULL_COST]
    assert len(two.a.seen) == (0 if behave is None else 1)
    assert len(two.b.seen) == 1
    if failure.startswith("hang"):
        assert eventually(two.a.last.gone.is_set)


@pytest.mark.parametrize(
    ("failure", "status", "times"),
    [("refused", 502, 0), ("500", 502, 2), ("401", 502, 2), ("429", 429, 1), ("hang", 504, 1), ("cut", 502, 1),
     ("rubbish", 502, 1)],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_a_single_upstream_is_retried_only_if_the_failure_was_not_billed(
    two: Two, account: Account, failure: str, status: int, times: int, stream: bool
) -> None:
    behave, code = FAILURES[failure]
    if behave is not None:
        two.a.behave = behave
    answer = post(account, model="gone" if behave is None else "solo", stream=stream)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert len(two.a.seen) == times
    generation = record(account, answer)
    assert (generation["state"], generation["cost"]) == ("failed", "0.000000000")
    assert asked(generation) == [("gone" if behave is None else "first", code)] * max(times, 2 if behave is None else 1)
    assert account.settled() == CREDIT
    if status == 429:
        assert answer.headers["retry-after"] == "30"


def test_a_stream_that_fails_midway_is_charged_and_does_not_fail_over(two: Two, account: Account) -> None:
    two.a.behave = manners.break_off("reset")
    answer = post(account, model="pair")
    found = events(answer.text)
    assert (answer.status_code, said(found)) == (200, ANSWER)
    assert found[-1]["error"]["code"] == "upstream_error"
    assert "[DONE]" not in found
    generation = record(account, answer)
    assert (generation["state"], generation["engine"], generation["estimated"]) == ("failed", "first", True)
    assert asked(generation) == [("first", "upstream_error")]
    assert generation["output_units"] == len(manners.WORDS)
    [charge] = two.server.transfers_of(answer.headers["x-generation-id"])
    assert CREDIT - account.settled() == charge > 0
    assert two.b.seen == []


def test_a_response_without_streaming_that_fails_midway_fails_over(two: Two, account: Account) -> None:
    two.a.behave = manners.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    answer = post(account, model="pair", stream=False)
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    assert asked(record(account, answer)) == [("first", "upstream_error"), ("second", None)]
    assert CREDIT - account.settled() == FULL_COST


def test_an_invalid_request_does_not_fail_over(two: Two, account: Account) -> None:
    two.a.behave = manners.refuse(400, "that is no way to ask")
    answer = post(account, model="pair")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert (len(two.a.seen), two.b.seen) == (1, [])
    assert account.settled() == CREDIT


def test_an_embedded_engine_is_never_the_fallback_of_an_upstream(two: Two, account: Account) -> None:
    two.a.behave = manners.refuse(500)
    answer = post(account, model="stand-in")
    assert answer.status_code == 502, answer.text
    assert asked(record(account, answer)) == [("first", "upstream_error")] * 2


def test_when_both_fail_the_last_word_is_the_callers(two: Two, account: Account) -> None:
    two.a.behave, two.b.behave = manners.refuse(500), manners.hang_before_head
    answer = post(account, model="pair")
    assert answer.status_code in (502, 504)
    assert asked(record(account, answer))[:2] == [("first", "upstream_error"), ("second", "upstream_timeout")]
    assert account.settled() == CREDIT


def test_a_short_retry_after_is_waited_for(two: Two, account: Account) -> None:
    times: list[float] = []

    async def behave(exchange: Exchange) -> None:
        times.append(time.monotonic())
        await (manners.refuse(429, retry_after="1") if len(times) == 1 else manners.answer())(exchange)

    two.a.behave = behave
    answer = post(account, model="solo")
    assert (answer.status_code, said(events(answer.text))) == (200, ANSWER)
    assert times[1] - times[0] >= 1.0
    assert asked(record(account, answer)) == [("first", "rate_limit_exceeded"), ("first", None)]
    assert CREDIT - account.settled() == FULL_COST


def test_a_long_retry_after_is_kept_by_later_requests(two: Two, account: Account) -> None:
    two.a.behave = manners.refuse(429, retry_after="30")
    assert post(account, model="slowed").status_code == 429
    two.a.behave = manners.answer()
    again = post(account, model="slowed")
    assert again.status_code == 429
    assert 20 < int(again.headers["retry-after"]) <= 30
    assert len(two.a.seen) == 1
    # Another model of the same upstream is not rate limited.
    assert asked(record(account, post(account, model="slowed-pair"))) == [("slowed", None)]


def test_an_upstream_that_failed_repeatedly_rests_and_is_probed_by_one_request(two: Two, account: Account) -> None:
    two.a.behave = manners.refuse(500)
    assert [post(account, model="tired").status_code for _ in range(MIN_CALLS)] == [502] * MIN_CALLS
    refusal = post(account, model="tired")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "overloaded")
    assert int(refusal.headers["retry-after"]) >= 1
    assert len(two.a.seen) == MIN_CALLS
    # While the circuit is open, a model with another upstream goes there immediately.
    assert asked(record(account, post(account, model="tired-pair"))) == [("second", None)]
    time.sleep(3.1)
    two.a.behave = manners.answer(delay_s=0.4)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: post(account, model="tired-pair"), range(4)))
    engines = sorted(record(account, answer)["engine"] for answer in answers)
    assert engines == ["second", "second", "second", "tired"]
    assert record(account, post(account, model="tired-pair"))["engine"] == "tired"


@pytest.mark.parametrize("cause", ["refused", "401"])
def test_what_no_request_can_cause_rests_the_upstream_for_all_at_once(two: Two, account: Account, cause: str) -> None:
    two.a.behave = manners.refuse(401)
    model, other = "shut" if cause == "refused" else "stranger", two.server.account()
    assert post(account, model=model).status_code == 502
    assert [post(who, model=model).status_code for who in (account, other)] == [503, 503]
    assert len(two.a.seen) == (cause == "401")


def test_failures_of_three_accounts_rest_the_upstream_for_all_and_another_account_probes_it(two: Two) -> None:
    two.a.behave = manners.refuse(500)
    *causes, other = [two.server.account() for _ in range(4)]
    for _ in range(2):
        assert {post(account, model="shared").status_code for account in causes} <= {502, 503}
    asked_before = len(two.a.seen)
    assert asked_before == MIN_ACCOUNTS + 2
    assert [post(account, model="shared").status_code for account in (*causes, other)] == [503] * 4
    two.a.behave = manners.answer()
    time.sleep(3.1)
    assert [post(account, model="shared").status_code for account in causes] == [503] * 3
    assert len(two.a.seen) == asked_before
    assert post(other, model="shared").status_code == 200
    assert [post(account, model="shared").status_code for account in causes] == [200] * 3


def test_a_429_without_retry_after_concerns_one_request(two: Two, account: Account) -> None:
    async def behave(exchange: Exchange) -> None:
        is_refused = exchange.body.get("user") == "hasty"
        await (manners.refuse(429, "slow down") if is_refused else manners.answer())(exchange)

    two.a.behave, other = behave, two.server.account()
    for _ in range(MIN_CALLS // 2):
        refused = post(account, model="strict", user="hasty")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert asked(record(account, refused)) == [("strict", "rate_limit_exceeded")] * 2
        assert post(other, model="strict").status_code == 200
    # It is tried again with the same upstream, then with the next.
    answer = post(account, model="strict-pair", user="hasty")
    assert asked(record(account, answer)) == [("strict", "rate_limit_exceeded")] * 2 + [("second", None)]


@pytest.mark.parametrize(
    "message",
    [
        "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 61000.",
        "Rate limit reached on tokens per min. Limit: 30,000 / min. Requested: 61,000 / min.",
        "This request would exceed your organization's rate limit of 40,000 input tokens per minute.",
    ],
)
def test_a_429_about_the_size_of_a_request_rests_nothing_and_is_not_tried_again(
    two: Two, account: Account, message: str
) -> None:
    two.a.behave, other = manners.refuse(429, message, retry_after="30"), two.server.account()
    refused = post(account, model="strict")
    assert (refused.status_code, len(two.a.seen)) == (429, 1)
    two.a.behave = manners.answer()
    assert [post(who, model="strict").status_code for who in (account, other)] == [200, 200]


def test_requests_above_the_concurrency_limit_wait_or_are_refused(two: Two, account: Account) -> None:
    at_once = most = 0

    async def behave(exchange: Exchange) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.5)
        at_once -= 1
        await manners.answer()(exchange)

    two.a.behave = behave
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(account, model="narrow"), range(8)))
    statuses = sorted(answer.status_code for answer in answers)
    assert most == 2
    assert statuses.count(200) >= 5
    assert set(statuses) <= {200, 503}
    assert CREDIT - account.settled() == statuses.count(200) * FULL_COST
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: post(account, model="narrow-pair"), range(6)))
    engines = [record(account, answer)["engine"] for answer in answers]
    assert engines.count("narrow") >= 2
    assert engines.count("second") >= 1
    assert most == 2


def test_a_slot_is_released_after_a_disconnect_and_after_a_failure(two: Two, account: Account) -> None:
    two.a.behave = manners.refuse(500)
    for _ in range(4):
        assert post(account, model="narrow").status_code in (502, 503)
    two.a.behave = manners.answer()
    time.sleep(0.1)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: post(account, model="narrow-pair").status_code, range(2)))
    assert done == [200, 200]


def test_an_image_is_routed_to_the_upstream_with_vision(two: Two, account: Account) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://93.184.216.34/a.png", "detail": "low"}}
    answer = post(account, model="seeing", messages=[{"role": "user", "content": [picture]}])
    assert answer.status_code == 200, answer.text
    assert asked(record(account, answer)) == [("second", None)]


def test_the_upstream_cost_is_recorded_and_not_shown_to_customers(two: Two, account: Account) -> None:
    time.sleep(0.1)
    generation = record(account, post(account, model="narrow"))
    bought = manners.PROMPT_TOKENS * 100 + len(manners.WORDS) * 400
    query = "SELECT purchase FROM generations WHERE purchase IS NOT NULL ORDER BY id DESC LIMIT 1"
    assert two.server.read(lambda c: c.execute(query)) == [(bought,)]
    assert "purchase" not in generation
    report = two.server.command("margin", "--days", "1").stdout
    [line] = [line.split() for line in report.splitlines() if line.split()[:2] == ["narrow", "narrow"]]
    assert Decimal(line[3]) / FULL_COST == Decimal(line[4]) / bought > 0
    assert line[6:] == ["33", "%"]
    assert "narrow charges" in two.server.command("models").stdout


def test_doctor_requests_one_token_from_every_upstream(two: Two) -> None:
    two.a.behave = manners.refuse(401)
    said_ = two.server.command("doctor")
    assert said_.returncode == 1
    assert "ok     upstream second (pair): one token from standin-2026-01-31" in said_.stdout
    assert "FAULT  upstream first (solo): the engine failed with status 401" in said_.stdout
    assert "FAULT  upstream gone (gone): the engine cannot be reached" in said_.stdout
    assert two.b.last.body["max_completion_tokens"] == 1
    assert "upstream" not in two.server.command("doctor", "--offline").stdout


def test_a_price_of_purchase_that_is_none_is_refused_with_its_line(tmp_path: Any) -> None:
    cli = Cli(tmp_path)
    text = cli.catalog.read_text()
    for line in ('cost_input = "cheap"', 'costs = { fake-chat = { input = "0.1", output = "x" } }'):
        cli.catalog.write_text(text.replace("needs_key = true", f"needs_key = true\n{line}"))
        refused = cli("models")
        assert refused.status == 1
        assert "line 9" in refused.err
        assert "dollars per million tokens" in refused.err
