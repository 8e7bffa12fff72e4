"""Row 4: rate limits and failed sign-ins hold for all processes together, and one connection can use all of a limit."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest
import requests

from minitoolai.accounts.rate_limits import Limit, Limits, Throttle, UsageReservation
from minitoolai.accounts.shared_limits import SLOTS_LEASE_MS, SharedBuckets
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import RateLimited
from minitoolai.core.models import Caller, KeyRules, RateLimits
from minitoolai.ledger.rules import decide
from minitoolai.storage.opening import open_database
from minitoolai.storage.writer import Writer
from tests.support.cluster import Cluster
from tests.support.gallery import CATALOG
from tests.support.server import ServerProcess

#: 3 machines with 2 processes each.
PROCESSES, LIMIT = 6, 60
KEY = Caller(1, "key", rules=KeyRules(rate=RateLimits(requests_per_minute=LIMIT)), rotation_group="key")


@asynccontextmanager
async def processes(url: str, rate: RateLimits = RateLimits()) -> AsyncIterator[list[Limits]]:  # noqa: B008 - frozen
    """The limits of as many processes, each with a writer of its own."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(PROCESSES):
            clock = SystemClock()
            database = stack.enter_context(closing(open_database(url, serving=True)))
            database.follow_time(clock.follow)
            writer = Writer(database, decide)
            writer.start()
            stack.callback(writer.stop)
            shared = SharedBuckets(writer, clock)
            task = asyncio.create_task(shared.run())
            stack.callback(task.cancel)
            made.append(Limits(clock, rate, shared=shared))
        yield made


async def count(limits: Limits) -> tuple[bool, int, int]:
    """Whether a request is allowed, and what its headers say of limit and rest."""
    await limits.prepare(KEY)
    headers, refusal = limits.count(KEY)
    said = {name: int(value) for name, value in headers if name in (LIMIT_HEADER, REST_HEADER)}
    return refusal is None, said[LIMIT_HEADER], said[REST_HEADER]


LIMIT_HEADER, REST_HEADER = b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests"


def test_six_processes_together_allow_what_one_would(cluster: Cluster) -> None:
    async def test() -> None:
        async with processes(cluster.books()) as all_limits:
            began_s = time.monotonic()
            answers = [await count(all_limits[number % PROCESSES]) for number in range(150)]
            refilled = int(time.monotonic() - began_s) + 1
            allowed = sum(answer[0] for answer in answers)
            print(f"{PROCESSES} processes allowed {allowed} of 150 requests at {LIMIT} a minute")
            assert LIMIT - 3 <= allowed <= LIMIT + refilled
            assert {answer[1] for answer in answers} == {LIMIT}

    asyncio.run(test())


def test_all_at_once_from_many_tasks_allow_no_more(cluster: Cluster) -> None:
    async def test() -> None:
        async with processes(cluster.books()) as all_limits:
            began_s = time.monotonic()
            answers = await asyncio.gather(*(count(all_limits[number % PROCESSES]) for number in range(300)))
            allowed, refilled = sum(answer[0] for answer in answers), int(time.monotonic() - began_s) + 1
            assert LIMIT - 3 <= allowed <= LIMIT + refilled

    asyncio.run(test())


def test_one_connection_gets_nearly_all_and_its_header_counts_down(cluster: Cluster) -> None:
    async def test() -> None:
        async with processes(cluster.books()) as all_limits:
            answers = [await count(all_limits[0]) for _ in range(90)]
            allowed = sum(answer[0] for answer in answers)
            print(f"one connection was allowed {allowed}")
            assert 57 <= allowed <= LIMIT + 6
            rests = [answer[2] for answer in answers if answer[0]]
            assert all(abs(rest - (LIMIT - 1 - number)) <= 2 for number, rest in enumerate(rests[:LIMIT]))

    asyncio.run(test())


def test_what_a_process_does_not_use_the_others_get(cluster: Cluster) -> None:
    async def test() -> None:
        async with processes(cluster.books()) as all_limits:
            # Each of five processes is fast for a moment, so that it holds some units, and then silent.
            used = 0
            for limits in all_limits[1:]:
                used += sum([(await count(limits))[0] for _ in range(4)])
            await asyncio.sleep(4.5)
            rest = sum([(await count(all_limits[0]))[0] for _ in range(90)])
            print(f"five processes used {used}, and then one connection {rest}")
            assert LIMIT - 3 <= used + rest <= LIMIT + 8

    asyncio.run(test())


def test_tokens_and_dollars_are_shared_and_given_back(cluster: Cluster) -> None:
    async def test() -> None:
        async with processes(cluster.books(), RateLimits(tokens_per_minute=1000, dollars_per_minute=10**9)) as limits:
            caller = Caller(1, "key")
            first, second = limits[0], limits[1]
            await first.prepare_work(caller, tokens=900, dollars=9 * 10**8)
            held = first.reserve(caller, tokens=900, dollars=9 * 10**8)
            await second.prepare_work(caller, tokens=900, dollars=1000)
            with pytest.raises(RateLimited, match="1000 tokens per minute"):
                second.reserve(caller, tokens=900, dollars=1000)
            # It was much less in the end, and the other process can have it soon.
            first.release(held, tokens=10, dollars=1000)
            async with asyncio.timeout(6):
                while True:
                    await second.prepare_work(caller, tokens=900, dollars=1000)
                    try:
                        second.reserve(caller, tokens=900, dollars=1000)
                        break
                    except RateLimited:
                        await asyncio.sleep(0.2)

    asyncio.run(test())


def test_work_that_used_more_than_it_reserved_is_a_debt_of_all_processes(cluster: Cluster) -> None:
    async def test() -> None:
        async with processes(cluster.books(), RateLimits(tokens_per_minute=6000)) as limits:
            caller = Caller(1, "key")
            await limits[0].prepare_work(caller, tokens=10, dollars=0)
            limits[0].release(limits[0].reserve(caller, tokens=10, dollars=0), tokens=6100, dollars=0)
            await asyncio.sleep(1.5)
            await limits[1].prepare_work(caller, tokens=200, dollars=0)
            with pytest.raises(RateLimited):
                limits[1].reserve(caller, tokens=200, dollars=0)
            # A hundred tokens a second: the debt is soon paid.
            await asyncio.sleep(3.5)
            await limits[0].prepare_work(caller, tokens=200, dollars=0)
            limits[0].reserve(caller, tokens=200, dollars=0)

    asyncio.run(test())


STREAMER = Caller(1, "key")


async def begin(limits: Limits) -> UsageReservation | None:
    await limits.prepare_work(STREAMER, tokens=0, dollars=0)
    try:
        return limits.reserve(STREAMER, tokens=0, dollars=0)
    except RateLimited:
        return None


def test_requests_in_progress_are_counted_together(cluster: Cluster) -> None:
    async def test() -> None:
        async with processes(cluster.books(), RateLimits(streams=20)) as all_limits:
            begun = await asyncio.gather(*(begin(all_limits[number % PROCESSES]) for number in range(60)))
            held = [(number, one) for number, one in enumerate(begun) if one is not None]
            assert 18 <= len(held) <= 20
            # A process that ends its requests leaves their places to the others.
            for number, one in held:
                all_limits[number % PROCESSES].release(one, tokens=0, dollars=0)
            await asyncio.sleep(2.5)
            alone = [await begin(all_limits[0]) for _ in range(25)]
            assert sum(one is not None for one in alone) == 20
            # They stay while the requests last, longer than any lease, and nobody else begins one.
            await asyncio.sleep(SLOTS_LEASE_MS / 1000 + 1)
            assert await begin(all_limits[1]) is None

    asyncio.run(test())


def test_a_process_that_dies_keeps_no_places(cluster: Cluster) -> None:
    async def test() -> None:
        url = cluster.books()
        async with processes(url, RateLimits(streams=5)) as dying:
            assert sum([await begin(dying[0]) is not None for _ in range(6)]) == 5
        async with processes(url, RateLimits(streams=5)) as others:
            assert await begin(others[0]) is None
            async with asyncio.timeout(SLOTS_LEASE_MS / 1000 + 2):
                while await begin(others[1]) is None:
                    await asyncio.sleep(0.2)

    asyncio.run(test())


def test_failed_sign_ins_are_counted_by_all_processes_together(cluster: Cluster) -> None:
    async def test() -> None:
        async with processes(cluster.books()) as all_limits:
            throttles = [Throttle(SystemClock(), shared=limits.shared) for limits in all_limits]
            limit = Limit(10, 600)
            waits = [await throttles[n % PROCESSES].wait("guess ann@example.com", limit) for n in range(20)]
            assert [wait == 0 for wait in waits] == [True] * 10 + [False] * 10
            assert all(0 < wait <= 60 for wait in waits[10:])
            await throttles[0].forgive("guess ann@example.com")
            assert await throttles[0].wait("guess ann@example.com", limit) == 0

    asyncio.run(test())


def test_a_key_of_60_a_minute_over_two_servers_with_two_processes_each(tmp_path: Path, cluster: Cluster) -> None:
    url = cluster.books()
    servers: list[ServerProcess] = []
    env = {"MINITOOLAI_DATABASE_URL": url, "MINITOOLAI_REQUESTS_PER_MINUTE": str(LIMIT), "MINITOOLAI_IMAGE_ROWS": "0"}
    try:
        for number in range(2):
            folder = tmp_path / str(number)
            (folder / "data").mkdir(mode=0o700, parents=True)
            if servers:
                shutil.copy(servers[0].data_dir / "secret.key", folder / "data")
            servers.append(ServerProcess(folder, catalog=CATALOG, env=env).start("--workers", "2"))
        account = servers[0].account("1")
        began_s = time.monotonic()
        # A new connection each, so that any of the processes may get it.
        answers = [
            requests.get(servers[n % 2].url + "/v1/models", headers=account.headers, timeout=10) for n in range(100)
        ]
        allowed, refilled = sum(answer.ok for answer in answers), int(time.monotonic() - began_s) + 1
        print(f"4 processes on 2 servers allowed {allowed} of 100 requests in {time.monotonic() - began_s:.1f} s")
        assert LIMIT - 3 <= allowed <= LIMIT + 4 + refilled
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {str(LIMIT)}
    finally:
        for server in servers:
            server.kill()
