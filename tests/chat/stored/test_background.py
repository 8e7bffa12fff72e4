"""Tests of background responses in one server: queued, polled, charged once, cancelled, refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import requests

from minitoolai.billing.corrections import suspend, unsuspend
from minitoolai.core.clock import SystemClock
from minitoolai.storage.tables import accounts, responses
from tests.chat.dialects.test_responses import CREDIT, ask, whole
from tests.chat.stored.test_endpoints import call, number
from tests.support import catalogs, manners
from tests.support.ask import check_refusal, get
from tests.support.server import Account, ServerProcess
from tests.support.strict import Response, check
from tests.support.upstream import Behaviour, Exchange, Upstream
from tests.support.waiting import eventually

UNFINISHED = ("queued", "in_progress")


def slow(seconds: float) -> Behaviour:
    """Answer as a whole after this time."""

    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        if not exchange.gone.is_set():
            exchange.answer(200, manners.completion(manners.WORDS))

    return behave


def queue(account: Account, **fields: Any) -> Any:
    """Queue a response, and return its object."""
    answer = ask(account, background=True, **fields)
    assert answer.status_code == 200, answer.text
    queued = check(Response, answer.json())
    assert (queued.status, queued.background, queued.output, queued.usage) == ("queued", True, [], None)
    assert answer.headers["x-generation-id"] == f"gen-{queued.id[5:]}"
    return queued


def poll(account: Account, name: str) -> Any:
    answer = call(account, "GET", name)
    assert answer.status_code == 200, answer.text
    return check(Response, answer.json())


def finished(account: Account, name: str, within_s: float = 20.0) -> Any:
    """Poll a response until it has ended, and return it."""
    eventually(lambda: poll(account, name).status not in UNFINISHED, within_s=within_s)
    return poll(account, name)


def test_a_background_response_is_generated_and_charged_once(account: Account) -> None:
    queued = queue(account, metadata={"a": "b"})
    response = finished(account, queued.id)
    assert (response.status, response.background, response.store) == ("completed", True, True)
    assert (response.created_at, response.metadata) == (queued.created_at, {"a": "b"})
    assert response.output_text.split()[0] == "token-0"
    cost = response.usage.input_tokens * 150 + response.usage.output_tokens * 600
    assert account.settled() == CREDIT - cost
    assert account.server.transfers_of(f"gen-{queued.id[5:]}") == [cost]
    row = account.server.generation(f"gen-{queued.id[5:]}")
    assert (row["state"], row["hold_state"], row["output_units"]) == ("succeeded", "posted", 16)


def test_it_continues_a_conversation_and_is_continued(account: Account, upstream: Upstream) -> None:
    first = whole(account, model="standin", input="One")
    second = queue(account, model="standin", input="Two", previous_response_id=first.id)
    response = finished(account, second.id)
    assert response.previous_response_id == first.id
    whole(account, model="standin", input="Three", previous_response_id=second.id)
    assert [message["content"] for message in upstream.last.body["messages"]] == [
        "One", first.output_text, "Two", response.output_text, "Three",
    ]  # fmt: skip
    items = call(account, "GET", f"{second.id}/input_items").json()["data"]
    assert items[0]["content"][0]["text"] == "Two"


def test_one_in_progress_cannot_be_continued_and_is_cancelled(account: Account, upstream: Upstream) -> None:
    upstream.behave = slow(30)
    name = queue(account, model="whole").id
    eventually(lambda: poll(account, name).status == "in_progress")
    told = check_refusal(ask(account, previous_response_id=name), 400, "invalid_request", "previous_response_id")
    assert "still in progress" in told
    for _ in range(2):
        cancelled = call(account, "POST", f"{name}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert account.settled() == CREDIT
    assert poll(account, name).status == "cancelled"
    told = check_refusal(ask(account, previous_response_id=name), 400, "invalid_request", "previous_response_id")
    assert "was cancelled" in told


def test_an_engine_that_bills_after_a_disconnect_is_read_to_the_end(account: Account, upstream: Upstream) -> None:
    upstream.behave = slow(1.0)
    name = queue(account, model="billing").id
    eventually(lambda: len(upstream.seen) == 1)
    assert call(account, "POST", f"{name}/cancel").json()["status"] == "cancelled"
    assert account.money().held > 0
    assert account.settled() < CREDIT
    assert account.server.generation(f"gen-{name[5:]}")["state"] == "cancelled"
    assert poll(account, name).status == "cancelled"


def test_a_finished_one_is_not_changed_by_cancelling(account: Account) -> None:
    response = finished(account, queue(account).id)
    cancelled = call(account, "POST", f"{response.id}/cancel")
    assert check(Response, cancelled.json()) == response


def test_a_failed_one_tells_why_and_costs_nothing(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.refuse(500)
    response = finished(account, queue(account, model="standin").id)
    assert response.status == "failed"
    assert response.error.code == "server_error"
    assert response.error.message
    assert account.settled() == CREDIT
    told = check_refusal(ask(account, previous_response_id=response.id), 400, "invalid_request", "previous_response_id")
    assert "failed" in told


def test_it_waits_while_the_upstream_is_rate_limited(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.refuse(429)
    name = queue(account, model="whole").id
    eventually(lambda: len(upstream.seen) >= 1)
    upstream.behave = manners.answer()
    assert finished(account, name).status == "completed"
    assert len(account.server.transfers_of(f"gen-{name[5:]}")) == 1


def test_one_whose_conversation_is_deleted_meanwhile_fails(account: Account, upstream: Upstream) -> None:
    first = whole(account, model="whole")
    upstream.behave = manners.refuse(429)
    name = queue(account, model="whole", previous_response_id=first.id).id
    eventually(lambda: len(upstream.seen) >= 2)
    call(account, "DELETE", first.id)
    response = finished(account, name)
    assert (response.status, response.error.code) == ("failed", "invalid_prompt"), response.error
    assert first.id in response.error.message
    assert account.settled() < CREDIT


def test_one_that_expires_while_it_waits_is_not_generated(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.refuse(429)
    name = queue(account, model="whole").id
    eventually(lambda: len(upstream.seen) >= 1)
    account.server.write(lambda c: c.execute("UPDATE responses SET expires_ms = 5 WHERE id = ?", (number(name),)))
    upstream.behave = manners.answer()
    assert account.settled() == CREDIT
    assert account.server.generation(f"gen-{name[5:]}")["state"] == "cancelled"


def test_deleting_one_in_progress_cancels_it(account: Account, upstream: Upstream) -> None:
    upstream.behave = slow(30)
    name = queue(account, model="whole").id
    eventually(lambda: poll(account, name).status == "in_progress")
    assert call(account, "DELETE", name).json()["deleted"] is True
    check_refusal(call(account, "GET", name), 404, "not_found", "response_id")
    assert account.settled() == CREDIT


def test_a_refused_one_leaves_no_row(server: ServerProcess) -> None:
    poor = server.account(None)
    check_refusal(ask(poor, background=True), 402, "insufficient_balance")
    check_refusal(ask(poor, background=True, model="nobody"), 404, "model_not_found", "model")
    assert server.read(lambda c: responses.total_bytes(c, poor.id)) == 0


def test_the_hold_covers_it_while_it_waits(account: Account, upstream: Upstream) -> None:
    upstream.behave = slow(2)
    names = [queue(account, model="whole", max_output_tokens=50).id for _ in range(12)]
    assert account.money().held > 0
    states = [poll(account, name).status for name in names]
    assert "queued" in states, "no more than eight run at the same time"
    assert call(account, "POST", f"{names[-1]}/cancel").json()["status"] == "cancelled"
    for name in names[:-1]:
        assert finished(account, name).status == "completed"
    assert account.settled() < CREDIT
    assert account.server.transfers_of(f"gen-{names[-1][5:]}") == []


def test_a_revoked_key_ends_its_running_responses(account: Account, upstream: Upstream) -> None:
    upstream.behave = slow(30)
    name = queue(account, model="whole").id
    eventually(lambda: poll(account, name).status == "in_progress")
    account.server.write(lambda c: accounts.revoke_key(c, account.key.split("-")[2], 5))
    assert account.settled() == CREDIT
    assert account.server.generation(f"gen-{name[5:]}")["state"] == "failed"


def test_a_revoked_key_starts_none_of_its_queued_responses(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.refuse(429)
    name = queue(account, model="whole").id
    eventually(lambda: len(upstream.seen) >= 1)
    account.server.write(lambda c: accounts.revoke_key(c, account.key.split("-")[2], 5))
    upstream.behave = manners.answer()
    assert account.settled() == CREDIT
    row = account.server.generation(f"gen-{name[5:]}")
    assert (row["state"], row["error_code"]) == ("failed", "invalid_api_key")


def test_a_suspension_ends_running_and_queued_responses_and_releases_their_holds(
    account: Account, upstream: Upstream
) -> None:
    upstream.behave = slow(30)
    names = [queue(account, model="whole").id for _ in range(10)]
    eventually(lambda: sum(poll(account, name).status == "in_progress" for name in names) == 8)
    done = account.server.write(lambda c: suspend(c, SystemClock(), None, account.id, "unpaid"))
    assert done.jobs == 2
    assert account.settled(2.5) == CREDIT
    rows = [account.server.generation(f"gen-{name[5:]}") for name in names]
    assert {(row["state"], row["error_code"]) for row in rows} == {("failed", "account_suspended")}
    account.server.write(lambda c: unsuspend(c, SystemClock(), None, account.id, ""))
    eventually(lambda: get(account, "/api/balance").status_code == 200)
    for name in (names[0], names[-1]):
        assert poll(account, name).status == "failed"


def test_an_idempotent_request_is_queued_once(account: Account) -> None:
    body = {"model": "quick", "input": "x", "background": True}
    headers = {**account.headers, "idempotency-key": "once"}
    url = f"{account.server.url}/v1/responses"
    first, second = (requests.post(url, json=body, headers=headers, timeout=30) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    finished(account, first.json()["id"])
    assert account.server.read(
        lambda c: c.execute("SELECT count(*) FROM holds WHERE account_id = ?", (account.id,))
    ) == [(1,)]


def test_the_queue_of_an_account_is_limited(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> None:
    upstream.behave = slow(30)
    env = {"MINITOOLAI_IMAGE_QUEUE": "2"}
    catalog = catalogs.with_upstream(upstream.base_url)
    with ServerProcess(tmp_path_factory.mktemp("short"), catalog=catalog, env=env) as server:
        account = server.account()
        answers = [ask(account, model="whole", background=True) for _ in range(14)]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert refused
        check_refusal(refused[0], 429, "rate_limit_exceeded")
        for answer in answers:
            if answer.status_code == 200:
                call(account, "POST", f"{answer.json()['id']}/cancel")
        assert account.settled() == CREDIT


def test_a_stopping_server_hands_its_responses_to_the_next(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> None:
    upstream.behave = slow(30)
    env = {"MINITOOLAI_DRAIN_TIMEOUT_S": "0.2"}
    catalog = catalogs.with_upstream(upstream.base_url)
    with ServerProcess(tmp_path_factory.mktemp("stopping"), catalog=catalog, env=env) as server:
        account = server.account()
        name = queue(account, model="whole").id
        eventually(lambda: poll(account, name).status == "in_progress")
        server.terminate()
        assert server.wait() == 0
        rows = server.read(lambda c: c.execute("SELECT state, failures FROM generations"))
        assert rows == [("queued", 0)]
        upstream.behave = manners.answer()
        server.start()
        assert finished(account, name).status == "completed"
        assert len(server.transfers_of(f"gen-{name[5:]}")) == 1
