"""A synchronous standby is promoted while 50 streams run: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import catalogs
from tests.support.cluster import USER, Cluster
from tests.support.load import Caller, Seen, many
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

STREAMS = 50
BODY = {"model": "endless", "messages": [{"role": "user", "content": "word"}], "max_completion_tokens": 150}


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary and its synchronous standby."""
    primary = Cluster()
    primary.settings |= {"wal_level": "replica", "max_wal_senders": "5"}
    standby: Cluster | None = None
    try:
        primary.start()
        standby = Cluster(copy_of=primary)
        standby.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        primary.execute("SELECT pg_reload_conf()")
        sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        eventually(lambda: primary.execute(sync) == [(1,)], within_s=20)
        yield primary, standby
    finally:
        primary.remove()
        if standby is not None:
            standby.remove()


def test_a_promotion_under_50_streams_loses_nothing_that_was_acknowledged(
    tmp_path: Path, pair: tuple[Cluster, Cluster]
) -> None:
    primary, standby = pair
    name = primary.create()
    url = (
        f"postgresql://{USER}:not-asked-for@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/{name}"
        "?target_session_attrs=read-write"
    )
    server = ServerProcess(tmp_path, catalog=catalogs.FAKE, env={"MINITOOLAI_DATABASE_URL": url}).start()
    try:
        account = server.account("100")
        done = asyncio.run(_streams_and_promotion(server, account.key, primary, standby))
        seen, promoted_s = done
        print(f"writable {promoted_s:.1f} s after the primary died; {Counter((one.status, one.done) for one in seen)}")
        # A stream that ended normally was told its usage after the commit. It must be in the promoted server.
        whole = [one for one in seen if one.status == 200 and one.done]
        assert len(whole) >= STREAMS
        paid = 100_000_000_000 - account.settled(within_s=60)
        reported = sum(
            one.usage["prompt_tokens"] * 2007 + one.usage["completion_tokens"] * 8003 for one in whole if one.usage
        )
        print(f"reported {reported}, charged {paid}")
        assert paid >= reported
        states = server.read(lambda c: c.execute("SELECT state, count(*) FROM generations GROUP BY state"))
        assert dict(states)["succeeded"] == len(whole)
        server.check_books()
    finally:
        server.kill()


async def _streams_and_promotion(
    server: ServerProcess, key: str, primary: Cluster, standby: Cluster
) -> tuple[list[Seen], float]:
    callers = [Caller(server.port, key) for _ in range(STREAMS)]
    asked = asyncio.ensure_future(many(callers, [(BODY, None)] * STREAMS))
    await asyncio.sleep(1.0)
    began_s = time.monotonic()
    primary.stop(signal.SIGQUIT)
    with suppress(Exception):
        standby.execute("SELECT pg_promote(true, 10)")
    assert standby.execute("SELECT pg_is_in_recovery()") == [(False,)]
    promoted_s = time.monotonic() - began_s
    return await asked, promoted_s
