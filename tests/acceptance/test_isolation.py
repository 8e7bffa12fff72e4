"""One customer sends only what the upstream fails at; another is served as if there were no such customer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.acceptance.conftest import Serve
from tests.support import catalogs, manners
from tests.support.load import OPENAI, Caller
from tests.support.server import ServerProcess
from tests.support.upstream import Behaviour, Exchange, Upstream

#: How long each kind of failure goes on. `ISOLATION_S=60` for a long run.
DURATION_S = float(os.environ.get("ISOLATION_S", "12"))
#: The least share of good requests that are served.
LEAST = 0.95
TOO_LARGE = (
    "Request too large for gpt-4o-mini in organization org-x on tokens per min (TPM): Limit 30000, Requested 61000."
    " The input or output tokens must be reduced in order to run successfully."
)


async def unreadable_usage(exchange: Exchange) -> None:
    exchange.begin()
    exchange.event(manners.chunk({"content": "Saturn"}))
    exchange.event({**manners.chunk({}, finish="stop"), "usage": {"prompt_tokens": "many"}})
    exchange.end()


#: What the upstream does with a request of the bad customer, by the name of the model.
FAILURES: dict[str, Behaviour] = {
    "status_500": manners.refuse(500),
    "status_503": manners.refuse(503, retry_after="20"),
    "status_429": manners.refuse(429, "slow down"),
    "status_429_size": manners.refuse(429, TOO_LARGE, retry_after="20"),
    "status_400": manners.refuse(400),
    "status_403_content": manners.refuse(403, "Your input was flagged by our moderation."),
    "silence": manners.hang_before_head,
    "silence_later": manners.hang_before_token,
    "no_usage": unreadable_usage,
    "rubbish": manners.body(b"data: [[[[\n\n"),
    "cut": manners.break_off("reset", words=("Sat",)),
    "error": manners.break_off("error", words=()),
}


@dataclass
class Tally:
    """What both customers got with one model."""

    good: int = 0
    served: int = 0
    bad: int = 0
    faults: list[str] = field(default_factory=list)


async def behave(exchange: Exchange) -> None:
    failure = FAILURES[exchange.body["model"]] if exchange.body.get("user") == "bad" else manners.answer()
    await failure(exchange)


async def repeat(ask: Callable[[], Awaitable[None]], pause_s: float) -> None:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + DURATION_S
    while loop.time() < until_s:
        await ask()
        await asyncio.sleep(pause_s)


async def both(server: ServerProcess, bad_key: str, good_key: str, model: str) -> Tally:
    """Both customers at one model: the bad one three at a time, the good one five times a second."""
    tally = Tally()
    body: dict[str, Any] = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}

    async def spoil(caller: Caller) -> None:
        await caller.ask({**body, "user": "bad"}, path=OPENAI)
        tally.bad += 1

    async def work(caller: Caller) -> None:
        seen = await caller.ask(body, path=OPENAI)
        tally.good += 1
        tally.served += seen.done and seen.status == 200
        if not seen.done or seen.status != 200:
            tally.faults.append(f"{seen.status} {seen.body[-200:]!r}")

    bad, good = [Caller(server.port, bad_key) for _ in range(3)], Caller(server.port, good_key)
    tasks = [repeat(lambda caller=caller: spoil(caller), 0.3) for caller in bad]  # type: ignore[misc]
    await asyncio.gather(*tasks, repeat(lambda: work(good), 0.2))
    for caller in (*bad, good):
        await caller.close()
    return tally


@pytest.mark.parametrize("retries", [0, 1])
def test_a_customer_whose_requests_all_fail_does_not_keep_another_from_being_served(
    serve: Serve, upstream: Upstream, retries: int
) -> None:
    upstream.behave = behave
    extra = f"first_token_timeout_s = 0.5\ntotal_timeout_s = 2.0\nretries = {retries}\ncooldown_after = 3"
    server = serve(catalogs.FAKE + "".join(catalogs.upstream(name, upstream.base_url, extra) for name in FAILURES))
    bad, good = server.account("100"), server.account("100")

    async def work() -> list[Tally]:
        return await asyncio.gather(*(both(server, bad.key, good.key, name) for name in FAILURES))

    tallies = dict(zip(FAILURES, asyncio.run(work()), strict=True))
    for name, tally in tallies.items():
        print(f"{name}: {tally.served} of {tally.good} good requests served beside {tally.bad} bad ones")
    for name, tally in tallies.items():
        assert tally.good > 2 * DURATION_S, name
        assert tally.bad > DURATION_S, name
        assert tally.served >= LEAST * tally.good, (name, tally.faults[:3])
    good.settled()
    bad.settled()
