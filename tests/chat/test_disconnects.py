"""Clients that disconnect early or read slowly: charged for the output, and every resource is released."""

from __future__ import annotations

import json
import socket
import time

import pytest

from minitoolai.core.clock import generation_name
from tests.support import manners
from tests.support.ask import HELLO, events, start
from tests.support.dial import dial, head
from tests.support.server import Account
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

CREDIT = 5_000_000_000
PRICE_IN, PRICE_OUT = 150, 600


def last_generation(account: Account) -> str:
    rows = account.server.read(
        lambda c: c.execute("SELECT max(id) FROM generations WHERE account_id = ?", (account.id,))
    )
    return generation_name(rows[0][0])


@pytest.mark.parametrize("behave", [manners.hang_before_head, manners.hang_before_token])
@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_before_the_first_token_is_free_and_closes_the_upstream(
    account: Account, upstream: Upstream, behave: object, stream: bool
) -> None:
    upstream.behave = behave  # type: ignore[assignment]
    with dial(account, model="standin", stream=stream):
        eventually(lambda: upstream.seen)
        # Without streaming, a disconnect is only detected after the first half second.
        time.sleep(0.1 if stream else 0.7)
    assert account.settled(within_s=1.0) == CREDIT
    assert eventually(upstream.last.gone.is_set, within_s=1.0)
    row = account.server.generation(last_generation(account))
    assert (row["state"], row["error_code"], row["cost"]) == ("cancelled", "client_left", 0)


def test_a_disconnect_midway_stops_the_upstream_and_charges_the_output_so_far(
    account: Account, upstream: Upstream
) -> None:
    upstream.behave = manners.answer(["word "] * 200, delay_s=0.02)
    answer = start(account, model="standin")
    lines = answer.iter_lines()
    for _ in range(20):
        next(lines)
    answer.close()
    left = account.settled(within_s=2.0)
    assert eventually(upstream.last.gone.is_set, within_s=1.0)
    assert upstream.last.events_sent < 100
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["error_code"], row["estimated"]) == ("cancelled", "client_left", 1)
    assert 8 <= row["output_units"] <= upstream.last.events_sent
    assert CREDIT - left == row["cost"] == row["input_units"] * PRICE_IN + row["output_units"] * PRICE_OUT


def test_a_disconnect_at_the_first_token_still_charges_ten_images(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("hang", ["A "])
    parts = [{"type": "image_url", "image_url": {"url": f"https://93.184.216.34/{n}.jpg"}} for n in range(10)]
    answer = start(account, model="standin", messages=[{"role": "user", "content": parts}])
    next(answer.iter_lines())
    answer.close()
    left = account.settled(within_s=2.0)
    row = account.server.generation(answer.headers["x-generation-id"])
    # An image has at least 85 tokens for this model.
    assert (row["input_units"], row["estimated"]) == (4 + 10 * 85, 1)
    assert 854 * PRICE_IN < CREDIT - left == row["cost"] <= row["hold_amount"]


def test_an_upstream_that_bills_after_a_disconnect_is_read_to_its_usage(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["word "] * 30, delay_s=0.02)
    answer = start(account, model="billing")
    next(answer.iter_lines())
    answer.close()
    left = account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["estimated"], row["output_units"]) == ("cancelled", 0, 30)
    assert CREDIT - left == manners.PROMPT_TOKENS * PRICE_IN + 30 * PRICE_OUT


def test_a_disconnect_from_a_fake_engine_midway_charges_its_tokens(account: Account) -> None:
    answer = start(account, model="endless", max_completion_tokens=3000)
    lines = answer.iter_lines()
    for _ in range(20):
        next(lines)
    answer.close()
    left = account.settled(within_s=2.0)
    row = account.server.generation(answer.headers["x-generation-id"])
    assert 8 <= row["output_units"] < 100
    assert CREDIT - left == 6 * 2007 + row["output_units"] * 8003


def test_a_slow_client_gets_everything_and_slows_no_other(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.answer(["word " * 2000] * 40)
    with dial(account, receive_buffer=4096, model="standin", stream=True) as connection:
        slow = b"".join(connection.recv(1) for _ in range(200))
        time.sleep(0.5)
        with start(account) as other:
            assert events(other.text)[-1] == "[DONE]"
        rest = b"".join(iter(lambda: connection.recv(65536), b""))
    whole = (slow + rest).decode()
    assert whole.count("word ") == 2000 * 40
    assert "data: [DONE]" in whole
    # The upstream reports 40 tokens for 400,000 bytes, which is not believed: the most that was asked for is charged.
    assert CREDIT - account.settled() == manners.PROMPT_TOKENS * PRICE_IN + 1000 * PRICE_OUT + (6 * 150 + 16 * 600)


def test_a_request_with_an_incomplete_body_holds_nothing(account: Account) -> None:
    with socket.create_connection(("127.0.0.1", account.server.port)) as connection:
        connection.sendall(head(account, 1000) + b'{"model":')
    assert account.server.read(lambda c: c.execute("SELECT * FROM holds WHERE account_id = ?", (account.id,))) == []


def test_a_pipelined_request_is_not_taken_for_a_disconnect(account: Account) -> None:
    body = json.dumps({"model": "paced", "messages": HELLO, "max_completion_tokens": 10}).encode()
    with socket.create_connection(("127.0.0.1", account.server.port), timeout=30) as connection:
        connection.sendall((head(account, len(body)) + body) * 2)
        whole = b""
        while whole.count(b"[DONE]") < 2:
            data = connection.recv(65536)
            assert data, whole
            whole += data
    assert CREDIT - account.settled() == 2 * (6 * 2007 + 10 * 8003)
