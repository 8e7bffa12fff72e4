"""Several processes on PostgreSQL can be restarted, replaced and cut off from the database without wrong charges."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minitoolai.storage.writer import RECONNECT_WINDOW_S
from tests.support import catalogs
from tests.support.cluster import Cluster, running_cluster
from tests.support.load import Caller, Seen, many
from tests.support.server import Account, ServerProcess
from tests.support.waiting import children_of, eventually, is_alive

# 200 streams at once on several processes, with leases and timeouts of seconds.
pytestmark = pytest.mark.timing

PRICES = {"quick": (150, 600), "paced": (2007, 8003), "endless": (2007, 8003)}
STREAMS = 200


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


def new_server(folder: Path, url: str, **env: str) -> ServerProcess:
    folder.mkdir(exist_ok=True)
    return ServerProcess(folder, catalog=catalogs.FAKE, env={"MINITOOLAI_DATABASE_URL": url, **env})


def cost(model: str, seen: Seen) -> int:
    usage = seen.usage
    assert usage is not None, seen.body[-300:]
    return usage["prompt_tokens"] * PRICES[model][0] + usage["completion_tokens"] * PRICES[model][1]


def body(model: str, tokens: int = 60) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "word"}], "max_completion_tokens": tokens}


async def stream_all(account: Account, deed: Callable[[], None]) -> list[Seen]:
    """Start 200 streams of two seconds, and call `deed` while they run."""
    callers = [Caller(account.server.port, account.key) for _ in range(STREAMS)]
    asked = asyncio.ensure_future(many(callers, [(body("endless", 100), None)] * STREAMS))
    await asyncio.sleep(1)
    deed()
    return await asked


def check_streams(account: Account, seen: list[Seen]) -> None:
    """Check that every stream completed and was charged what was reported."""
    assert Counter((one.status, one.done) for one in seen) == {(200, True): STREAMS}
    assert 100_000_000_000 - account.settled(within_s=30) == sum(cost("endless", one) for one in seen)


def test_a_rolling_restart_breaks_none_of_200_streams(tmp_path: Path, cluster: Cluster) -> None:
    server = new_server(tmp_path, cluster.books())
    with server.start("--workers", "2"):
        account = server.account("100")
        before = children_of(server.pid)
        others: list[int] = []

        async def ask_meanwhile() -> None:
            """Send requests during the restart, each on a new connection."""
            while before & children_of(server.pid):
                caller = Caller(server.port, account.key)
                others.append((await caller.ask(body("quick", 3))).status)
                await caller.close()
                await asyncio.sleep(0.02)

        async def work() -> list[Seen]:
            streams = asyncio.ensure_future(stream_all(account, lambda: os.kill(server.pid, signal.SIGHUP)))
            await asyncio.sleep(1.1)
            await asyncio.wait_for(ask_meanwhile(), 90)
            return await streams

        seen = asyncio.run(work())
        assert Counter((one.status, one.done) for one in seen) == {(200, True): STREAMS}
        assert set(others) == {200}
        assert len(others) > 10
        account.settled(within_s=30)


def test_two_servers_behind_one_port_hand_over_without_breaking_a_stream(tmp_path: Path, cluster: Cluster) -> None:
    url = cluster.books()
    old = new_server(tmp_path / "old", url, MINITOOLAI_REUSE_PORT="1", MINITOOLAI_SECRET_KEY="x" * 32)
    new = new_server(tmp_path / "new", url, MINITOOLAI_REUSE_PORT="1", MINITOOLAI_SECRET_KEY="x" * 32)
    old.settings = new.settings = old.settings.__class__(
        data_dir=old.data_dir,
        database_url=old.settings.database_url,
        secret_key=old.settings.secret_key.__class__("x" * 32),
    )
    with old.start():
        account = old.account("100")
        new.port = old.port

        def hand_over() -> None:
            new.start()
            old.terminate()

        seen = asyncio.run(stream_all(account, hand_over))
        check_streams(account, seen)
        assert old.wait(60) == 0
        with new:
            asked = asyncio.run(many([Caller(new.port, account.key)], [(body("quick", 3), None)]))
            assert asked[0].done


def test_no_process_outlives_a_killed_parent_and_its_streams_complete(tmp_path: Path, cluster: Cluster) -> None:
    server = new_server(tmp_path, cluster.books()).start("--workers", "2")
    account = server.account("100")
    children = children_of(server.pid)
    seen = asyncio.run(stream_all(account, server.kill))
    check_streams(account, seen)
    eventually(lambda: not any(map(is_alive, children)), within_s=20)
    server.check_books()


def test_holds_of_a_dead_process_are_recovered_by_the_others(tmp_path: Path, cluster: Cluster) -> None:
    server = new_server(tmp_path, cluster.books())
    with server.start("--workers", "2"):
        account = server.account("100")
        victim = min(children_of(server.pid))

        async def work() -> list[Seen]:
            return await stream_all(account, lambda: os.kill(victim, signal.SIGKILL))

        seen = asyncio.run(work())
        broken = [one for one in seen if not one.done]
        whole = [one for one in seen if one.done]
        assert broken
        assert whole
        charged = 100_000_000_000 - account.settled(within_s=40)
        most = sum(2007 + one.tokens * 8003 for one in broken)
        certain = sum(cost("endless", one) for one in whole)
        # The operator loses at most a second of tokens, at most fifty, for each.
        assert certain + most - 60 * 8003 * len(broken) <= charged <= certain + most


def test_a_restart_of_postgres_under_load_causes_no_wrong_charge(tmp_path: Path, own_cluster: Cluster) -> None:
    server = new_server(tmp_path, own_cluster.url(own_cluster.create()))
    with server.start("--workers", "2"):
        account = server.account("100")
        asked: list[tuple[str, Seen]] = []
        over = False

        async def work(place: int) -> None:
            caller = Caller(server.port, account.key)
            while not over:
                model = ("quick", "paced")[place % 2]
                asked.append((model, await caller.ask(body(model, 30))))
                if asked[-1][1].status != 200:
                    await asyncio.sleep(0.05)
            await caller.close()

        async def ask_while_away() -> None:
            # A request in flight may wait for the database; a new request must not wait long.
            caller = Caller(server.port, account.key)
            asked.append(("quick", await caller.ask(body("quick", 30))))
            await caller.close()

        async def load() -> None:
            nonlocal over
            tasks = [asyncio.ensure_future(work(place)) for place in range(32)]
            for how, away_s in ((signal.SIGINT, 0.0), (signal.SIGQUIT, 1.0), (signal.SIGINT, 5.0)):
                await asyncio.sleep(1.5)
                own_cluster.stop(how)
                if away_s > 2 * RECONNECT_WINDOW_S:
                    tasks.append(asyncio.ensure_future(ask_while_away()))
                await asyncio.sleep(away_s)
                own_cluster.start()
            await asyncio.sleep(3)
            over = True
            await asyncio.gather(*tasks)

        asyncio.run(asyncio.wait_for(load(), 120))
        statuses = Counter(one.status for _, one in asked)
        print(f"responses by status: {dict(statuses)}")
        assert set(statuses) <= {200, 503}
        assert statuses[200] > 100
        refused = [one for _, one in asked if one.status == 503]
        assert refused
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
        # Exactly the responses are charged; so is a stream whose end could not wait for its charge.
        account.settled(within_s=40)
        certain = sum(cost(model, one) for model, one in asked if one.done and one.status == 200)
        unsure = sum(1 for _, one in asked if one.status == 200 and not one.done)
        charged = 100_000_000_000 - account.money().posted
        assert certain <= charged <= certain + unsure * (2007 + 30 * 8003)
        time.sleep(1)
