"""Stored and background responses survive `kill -9` of the server, on both databases."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from minitoolai.billing.job_leases import MAX_LOSSES
from minitoolai.chat.stored.items import parse_response_name
from minitoolai.storage.tables import responses
from tests.support import catalogs, manners
from tests.support.ask import check_refusal
from tests.support.cluster import Cluster
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Behaviour, Exchange, Upstream
from tests.support.waiting import eventually

PROMPT, OUTPUT = manners.PROMPT_TOKENS, len(manners.WORDS)
#: Nano-dollars of one response of the stand-in.
COST = PROMPT * 150 + OUTPUT * 600
CREDIT = 5_000_000_000
#: How long another process waits for a lease to expire, on a shared database.
LEASE_S = 30
ROUNDS = 6


@pytest.fixture
def server(database_url: str, tmp_path: Path, upstream: Upstream) -> Iterator[ServerProcess]:
    env = {} if database_url.startswith("sqlite") else {"MINITOOLAI_DATABASE_URL": database_url}
    with ServerProcess(tmp_path, catalog=catalogs.with_upstream(upstream.base_url), env=env) as started:
        yield started


def ask(account: Account, **fields: Any) -> requests.Response:
    body = {"model": "whole", "input": "Which planet has the most moons?", **fields}
    return requests.post(f"{account.server.url}/v1/responses", json=body, headers=account.headers, timeout=60)


def made(account: Account, **fields: Any) -> Any:
    answer = ask(account, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(account: Account, path: str) -> requests.Response:
    return requests.get(f"{account.server.url}/v1/responses/{path}", headers=account.headers, timeout=30)


def slow(seconds: float) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        if not exchange.gone.is_set():
            exchange.answer(200, manners.completion(manners.WORDS))

    return behave


def finished(account: Account, name: str) -> Any:
    eventually(lambda: get(account, name).json()["status"] not in ("queued", "in_progress"), within_s=LEASE_S + 30)
    return get(account, name).json()


def test_a_conversation_and_its_items_survive_a_kill(server: ServerProcess, upstream: Upstream) -> None:
    account = server.account()
    first = made(account, input="One")
    second = made(account, input="Two", previous_response_id=first["id"])
    server.kill()
    server.start()
    assert get(account, first["id"]).json() == first
    made(account, input="Three", previous_response_id=second["id"])
    assert [message["content"] for message in upstream.last.body["messages"]] == [
        "One", "".join(manners.WORDS), "Two", "".join(manners.WORDS), "Three",
    ]  # fmt: skip
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    made(account, input=[reference, {"role": "user", "content": "Four"}])
    assert [message["role"] for message in upstream.last.body["messages"]] == ["assistant", "user"]
    stranger = server.account()
    check_refusal(get(stranger, first["id"]), 404, "not_found", "response_id")
    check_refusal(get(stranger, f"{first['id']}/input_items"), 404, "not_found", "response_id")
    refused = ask(stranger, previous_response_id=first["id"])
    check_refusal(refused, 404, "previous_response_not_found", "previous_response_id")
    check_refusal(ask(stranger, input=[reference]), 404, "not_found", "input")
    assert account.settled() == CREDIT - 4 * COST


def test_background_responses_survive_kills_and_are_charged_once(server: ServerProcess, upstream: Upstream) -> None:
    account = server.account()
    upstream.behave = slow(1.0)
    names = [made(account, background=True, input=f"Number {number}")["id"] for number in range(12)]
    eventually(lambda: len(upstream.seen) >= 8)
    server.kill()
    server.start()
    # Eight ran when the server was killed, and four were queued.
    found = [finished(account, name) for name in names]
    assert [response["status"] for response in found] == ["completed"] * 12
    assert account.settled(within_s=LEASE_S) == CREDIT - 12 * COST
    assert all(server.transfers_of(f"gen-{name[5:]}") == [COST] for name in names)
    stranger = server.account()
    check_refusal(get(stranger, names[0]), 404, "not_found", "response_id")


def test_kills_at_any_moment_lose_and_repeat_nothing(server: ServerProcess, upstream: Upstream) -> None:
    account, chance = server.account(), random.Random(7)
    upstream.behave = slow(0.05)
    accepted: list[str] = []
    stored: list[Any] = []
    for round_number in range(ROUNDS):
        stopping = threading.Event()
        begun = itertools.count()

        def send(stopping: threading.Event = stopping, begun: Any = begun) -> None:
            while not stopping.is_set():
                try:
                    if next(begun) % 2:
                        accepted.append(made(account, background=True)["id"])
                    else:
                        stored.append(made(account))
                except requests.RequestException:
                    return

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3 + chance.random())
        server.kill()
        stopping.set()
        for thread in threads:
            thread.join()
        server.start()
        print(f"round {round_number}: {len(accepted)} accepted, {len(stored)} stored", file=sys.stderr)
    assert len(accepted) > ROUNDS
    assert len(stored) > ROUNDS
    for response in stored:
        assert get(account, response["id"]).json() == response
    ends = {name: finished(account, name) for name in accepted}
    failed = [name for name, response in ends.items() if response["status"] != "completed"]
    # A response that was lost in six rounds in a row has failed, and costs nothing.
    for name in failed:
        assert ends[name]["error"]["message"].endswith("(interrupted).")
        assert server.read(lambda c, name=name: c.execute(
            "SELECT losses FROM generations WHERE id = ?", (_number(name),)
        )) <= [(MAX_LOSSES,)]  # fmt: skip
        assert server.transfers_of(f"gen-{name[5:]}") == []
    for name in set(accepted) - set(failed):
        assert server.transfers_of(f"gen-{name[5:]}") == [COST]
        assert ends[name]["output"][0]["content"][0]["text"] == "".join(manners.WORDS)
    account.settled(within_s=LEASE_S)


def _number(name: str) -> int:
    found = parse_response_name(name)
    assert found is not None
    return found


def test_a_cancel_survives_a_kill(server: ServerProcess, upstream: Upstream) -> None:
    account = server.account()
    upstream.behave = slow(60)
    name = made(account, background=True)["id"]
    eventually(lambda: len(upstream.seen) == 1)
    server.write(lambda c: responses.mark_cancelled(c, _number(name), account.id, 5))
    server.kill()
    upstream.behave = manners.answer()
    server.start()
    assert get(account, name).json()["status"] == "cancelled"
    assert account.settled(within_s=LEASE_S + 30) == CREDIT
    assert get(account, name).json()["status"] == "cancelled"


def test_retention_deletes_what_has_expired(server: ServerProcess) -> None:
    account = server.account()
    names = [made(account)["id"] for _ in range(5)]
    queued = made(account, background=True)["id"]
    assert finished(account, queued)["status"] == "completed"
    server.stop()
    kept = names.pop()
    server.write(lambda c: c.execute("UPDATE responses SET expires_ms = 5 WHERE id <> ?", (_number(kept),)))
    server.start()

    def left() -> list[int]:
        return [row[0] for row in server.read(lambda c: c.execute("SELECT id FROM responses"))]

    eventually(lambda: left() == [_number(kept)], within_s=60)
    assert get(account, kept).status_code == 200
    for name in [*names, queued]:
        check_refusal(get(account, name), 404, "not_found", "response_id")
    assert account.settled() == CREDIT - 6 * COST


def test_a_customer_is_exported_with_their_responses_and_erased_with_them(server: ServerProcess) -> None:
    account = server.account()
    made(account, input="zebra-crossing")
    told = server.command("account", "export", account.email)
    assert told.returncode == 0, told.stderr
    assert "zebra-crossing" in told.stdout
    assert "".join(manners.WORDS) in told.stdout
    account.settled()
    done = server.command("account", "delete", account.email, "--yes")
    assert done.returncode == 0, done.stderr
    assert server.read(lambda c: c.execute("SELECT count(*) FROM responses")) == [(0,)]


def test_a_crash_between_output_and_charge_is_made_good(server: ServerProcess, upstream: Upstream) -> None:
    account = server.account()
    upstream.behave = slow(60)
    name = made(account, background=True)["id"]
    eventually(lambda: len(upstream.seen) == 1)
    server.kill()
    # As if the first attempt had just stored its output.
    queued = server.read(lambda c: responses.find_queued(c, _number(name)))
    assert server.write(lambda c: responses.save(c, _number(name), 1, 4, queued.response))
    upstream.behave = manners.answer()
    server.start()
    response = finished(account, name)
    assert (response["status"], response["output"][0]["content"][0]["text"]) == ("completed", "".join(manners.WORDS))
    assert account.settled(within_s=LEASE_S) == CREDIT - COST
    assert server.transfers_of(f"gen-{name[5:]}") == [COST]


def test_processes_share_background_responses(cluster: Cluster, tmp_path: Path, upstream: Upstream) -> None:
    env = {"MINITOOLAI_DATABASE_URL": cluster.url(cluster.create())}
    catalog = catalogs.with_upstream(upstream.base_url)
    upstream.behave = slow(60)
    # The same data folder, so that both have the same secret.
    one = ServerProcess(tmp_path, catalog=catalog, env=env).start()
    account = one.account()
    names = [made(account, background=True)["id"] for _ in range(2)]
    eventually(lambda: len(upstream.seen) == 2)
    with ServerProcess(tmp_path, catalog=catalog, env=env) as other:
        elsewhere = Account(other, account.id, account.email, account.key)
        assert get(elsewhere, names[0]).json()["status"] == "in_progress"
        cancelled = requests.post(f"{other.url}/v1/responses/{names[0]}/cancel", headers=account.headers, timeout=30)
        assert cancelled.json()["status"] == "cancelled"
        eventually(lambda: one.generation(f"gen-{names[0][5:]}")["state"] == "cancelled", within_s=15)
        upstream.behave = manners.answer()
        one.kill()
        assert finished(elsewhere, names[1])["status"] == "completed"
        assert elsewhere.settled(within_s=LEASE_S) == CREDIT - COST
