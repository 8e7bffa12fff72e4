"""Archiving beside 200 requests a second: none is delayed by more than 50 ms, and the books stay the same."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitoolai.billing import payments
from minitoolai.core.clock import MS_PER_DAY, SystemClock, date_of
from minitoolai.storage.tables import users
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.browse import new_user
from tests.support.cli import CATALOG
from tests.support.cluster import Cluster
from tests.support.history import close_days, seed_history
from tests.support.length import length
from tests.support.pace import TimeLimit
from tests.support.server import PROGRAM, ServerProcess
from tests.support.steady_load import steady_times_s

pytestmark = [pytest.mark.acceptance, pytest.mark.timing]
OLD_REQUESTS, DAYS_EACH = length(10_000, 20_000), 30
PER_SECOND, SECONDS = 200, length(6, 12)
#: Of requests before the first measurement.
WARM_UP_S = 3
MOST_DELAY_S = 0.050
TRIES = 3
EMAIL = "old@example.com"


@pytest.fixture(params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of its own on each database."""
    env = {}
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        env["MINITOOLAI_DATABASE_URL"] = cluster.url(cluster.create())
    with ServerProcess(tmp_path, catalog=CATALOG, env=env, is_new=request.param == "sqlite") as running:
        yield running


def load_times_s(server: ServerProcess, key: str, seconds: int = SECONDS) -> list[float]:
    """Send requests for this long and return how long each took, sorted."""
    times = steady_times_s(server.port, key, PER_SECOND, seconds, "fake-chat")
    assert len(times) > 0.9 * PER_SECOND * seconds
    return times


def test_no_request_waits_for_the_archive(server: ServerProcess) -> None:
    new_user(server, EMAIL)
    account_id = server.read(lambda c: users.find_user(c, EMAIL))[0].account_id
    server.write(lambda c: payments.grant(c, SystemClock(), account_id, 10**9, reason="test"))
    first = SystemClock().now_ms() // MS_PER_DAY - 140
    # Each try has days of its own.
    with server.connect() as connection:
        begin_ms, end_ms = first * MS_PER_DAY, (first + TRIES * DAYS_EACH) * MS_PER_DAY
        seed_history(connection, account_id, TRIES * OLD_REQUESTS, first_ms=begin_ms, until_ms=end_ms)
        close_days(connection, SystemClock().now_ms())
    found, limit = [], TimeLimit(MOST_DELAY_S, "s")
    customer = server.account()
    load_times_s(server, customer.key, WARM_UP_S)
    for turn in range(TRIES):
        alone = load_times_s(server, customer.key)
        command = [
            *PROGRAM,
            "archive",
            "--before",
            date_of(first + (turn + 1) * DAYS_EACH),
            "--data-dir",
            str(server.data_dir),
        ]
        began_s = time.monotonic()
        archive = subprocess.Popen(command, env=server.env, stdout=subprocess.PIPE, text=True)
        beside = load_times_s(server, customer.key)
        said, _ = archive.communicate(timeout=300)
        took_s = time.monotonic() - began_s
        assert archive.returncode == 0
        assert said.startswith(f"{OLD_REQUESTS:,} generations were archived")
        found.append((alone[-1], beside[-1], alone[len(alone) // 2], beside[len(beside) // 2], took_s))
        print("worst alone and beside, median alone and beside, seconds of the archive:", found[-1])
        if limit.permits(beside[-1] - alone[-1]):
            break
    print(limit)
    assert any(limit.permits(beside - alone) for alone, beside, *_ in found), f"{found}; {limit}"
    assert server.read(broken_invariants) == {}
    assert server.command("archive", "--verify").returncode == 0
