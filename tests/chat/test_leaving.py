"""Clients that leave an engine which bills for the whole response: all of it is read, and charged as reported."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.chat.service import MAX_DRAINING
from tests.support import manners
from tests.support.ask import post, start
from tests.support.dial import dial
from tests.support.server import Account
from tests.support.upstream import Exchange, Upstream
from tests.support.waiting import eventually

CREDIT = 5_000_000_000
PRICE_IN, PRICE_OUT = 150, 600
WORDS = ["word "] * 30
COST = manners.PROMPT_TOKENS * PRICE_IN + len(WORDS) * PRICE_OUT


def wait_for_word(connection: socket.socket) -> None:
    got = b""
    while b"word" not in got:
        data = connection.recv(4096)
        assert data, got
        got += data


def last_row(account: Account) -> dict[str, object]:
    columns = ("state", "error_code", "cost", "estimated", "output_units", "delivered_bytes")
    sql = f"SELECT {', '.join(columns)} FROM generations WHERE account_id = ? ORDER BY id DESC LIMIT 1"
    (row,) = account.server.read(lambda c: c.execute(sql, (account.id,)))
    return dict(zip(columns, row, strict=True))


def late(before: float, between: float) -> Callable[[Exchange], Awaitable[None]]:
    """Respond with one object, after a pause, and with a pause in the middle of it."""

    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(before)
        body = json.dumps(manners.completion(WORDS)).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        exchange.send(head.encode() + body[:40])
        await asyncio.sleep(between)
        exchange.send(body[40:])

    return behave


@pytest.mark.parametrize("behave", [late(1.5, 0.0), late(0.2, 1.5)], ids=["before its head", "in its body"])
def test_a_whole_response_that_was_abandoned_is_charged_as_reported(
    account: Account, upstream: Upstream, behave: Callable[[Exchange], Awaitable[None]]
) -> None:
    upstream.behave = behave
    with dial(account, model="billing", stream=False):
        eventually(lambda: upstream.seen)
        # Without streaming, a disconnect is only detected after the first half second.
        time.sleep(0.8)
    assert account.settled() == CREDIT - COST
    row = last_row(account)
    assert (row["state"], row["error_code"], row["estimated"]) == ("cancelled", "client_left", 0)
    assert row["delivered_bytes"] == len("".join(WORDS))


def test_nonsense_reported_after_the_client_left_does_not_cost_the_hold(account: Account, upstream: Upstream) -> None:
    nonsense = {"prompt_tokens": 7, "completion_tokens": 2**31 - 1}
    upstream.behave = manners.counting(nonsense, *[{"content": word} for word in WORDS])
    answer = start(account, model="billing")
    answer.close()
    left = account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["output_units"], row["estimated"]) == (30, 1)
    assert CREDIT - left < row["hold_amount"] / 10


def test_a_response_that_fails_after_the_client_left_is_charged_so_far(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("reset", WORDS)
    answer = start(account, model="billing")
    answer.close()
    account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["output_units"], row["estimated"], row["cost"] > 0) == (30, 1, True)


def test_a_hundred_and_ten_who_leave_at_once_all_pay_as_reported(account: Account, upstream: Upstream) -> None:
    callers, over = 110, asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        for word in WORDS[:10]:
            exchange.event(manners.chunk({"content": word}))
        while not over.is_set():
            await asyncio.sleep(0.05)
        for word in WORDS[10:]:
            exchange.event(manners.chunk({"content": word}))
        exchange.event(manners.chunk({}, finish="stop"))
        told = {**manners.head("chat.completion.chunk"), "choices": [], "usage": manners.usage(len(WORDS))}
        exchange.event(told)
        exchange.event("[DONE]")
        exchange.end()

    upstream.behave = behave
    connections = [dial(account, model="billing", stream=True) for _ in range(callers)]
    for connection in connections:
        wait_for_word(connection)
    for connection in connections:
        connection.close()
    refused = eventually(lambda: post(account, model="quick").status_code == 429, within_s=10)
    assert refused
    assert callers > MAX_DRAINING
    over.set()
    spent = CREDIT - account.settled(within_s=20)
    rows = account.server.read(
        lambda c: c.execute(
            "SELECT count(*), sum(cost) FROM generations WHERE account_id = ? AND model = 'billing'", (account.id,)
        )
    )
    quick = account.server.read(
        lambda c: c.execute(
            "SELECT coalesce(sum(cost), 0) FROM generations WHERE account_id = ? AND model = 'quick'", (account.id,)
        )
    )[0][0]
    assert rows == [(callers, callers * COST)]
    assert spent == callers * COST + quick
    assert post(account, model="quick").status_code == 200
