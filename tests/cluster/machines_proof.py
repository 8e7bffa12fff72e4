"""All of it together: machines that lose power, a bucket that is away, and a promotion, under chats and image jobs.

`make cluster` takes eleven minutes: ten without the bucket, and a machine that loses its power every 30 s. Shorter:

    pytest tests/cluster/machines_proof.py -s
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.buckets import REGION, make_bucket
from tests.support.cluster import USER, Cluster
from tests.support.gallery import CATALOG as GALLERY
from tests.support.gallery import PATH, PRICE
from tests.support.machines import Machine, Network, haproxy_command, is_ready, network, postgres_on
from tests.support.server import PROGRAM, Account, ServerProcess
from tests.support.waiting import eventually

LONG = bool(os.environ.get("CLUSTER_LONG"))
LASTS_S, AWAY_S, EVERY_S = (660.0, 600.0, 30.0) if LONG else (36.0, 20.0, 11.0)
#: A machine that lost its power comes back after so long.
DARK_S = 6.0
#: Requests are answered again so long after a machine or the primary database was lost, and are not refused later
#: (docs/howto/scale.md). A repeated request waits longer, until the process that was answering it counts as lost.
REFUSED_S, IN_PROGRESS_S = 10.0, 30.0
PORT, API, WORKERS = 8000, ("api1", "api2"), ("worker1", "worker2")
CREDIT = 1000 * 10**9
#: Dollars for a million tokens, read and written, in nano-dollars a token.
INPUT, OUTPUT = 150, 600
CATALOG = (
    GALLERY
    + """
[engines.slow_talk]
kind = "fake"
model = "fake-slow-1"
tokens = 40
delay_ms = 50

[chat.slow]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["slow_talk"]
"""
)


@dataclass
class Site:
    """The machines, the programs on them, and what the callers saw."""

    machines: Network
    primary: Cluster
    standby: Cluster
    account: Account
    folder: Path
    env: dict[str, str]
    programs: dict[str, Any] = field(default_factory=dict)
    #: When something was lost.
    losses_s: list[float] = field(default_factory=list)
    refused: list[tuple[float, object]] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    usage: list[dict[str, int]] = field(default_factory=list)
    streams: list[tuple[bool, int]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    #: Repetitions that were refused because the request had been charged.
    spent: list[str] = field(default_factory=list)

    def on(self, name: str) -> Machine:
        return self.machines.machines[name]

    @property
    def url(self) -> str:
        return f"http://{self.on('lb').address}:8080"

    def start(self, name: str) -> None:
        """Start `serve` or `worker` on a machine."""
        machine = self.on(name)
        serve = ["serve", "--host", machine.address, "--port", str(PORT)]
        command = [*PROGRAM, *(serve if name in API else ["worker"]), "--data-dir", str(self.folder / name)]
        rows = {"MINITOOLAI_IMAGE_ROWS": "0" if name in API else "8"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.programs[name] = machine.popen(command, env=self.env | rows, stdout=log, stderr=log)

    def lose_power(self, name: str) -> None:
        """End a machine without a sign to anybody."""
        self.losses_s.append(time.monotonic())
        self.on(name).cut()
        self.programs[name].kill()
        self.programs[name].wait()

    def power_up(self, name: str) -> None:
        self.on(name).heal()
        self.start(name)

    def refuse(self, why: object) -> None:
        self.refused.append((time.monotonic(), why))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        machines = stack.enter_context(network("db1", "db2", "s3", *API, *WORKERS, "lb", "client"))
        replicating = {"wal_level": "replica", "max_wal_senders": "5"}
        primary = stack.enter_context(postgres_on(machines.machines["db1"], **replicating))
        name = primary.create(primary.with_tables)
        standby = Cluster(machine=machines.machines["db2"], copy_of=primary)
        stack.callback(standby.remove)
        standby.settings |= primary.settings
        standby.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        primary.execute("SELECT pg_reload_conf()")
        sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        eventually(lambda: primary.execute(sync) == [(1,)], within_s=20)
        s3 = machines.machines["s3"]
        bucket = s3.popen([sys.executable, "-m", "moto.server", "-H", s3.address, "-p", "9000"])
        stack.callback(_end, bucket)
        endpoint = f"http://{s3.address}:9000"
        with s3.here():
            eventually(lambda: _made_bucket(endpoint), within_s=60)
        hosts = ",".join(f"{one.host}:{one.port}" for one in (primary, standby))
        server = ServerProcess(tmp_path, catalog=CATALOG, env={"MINITOOLAI_DATABASE_URL": primary.local(name)})
        account = server.account("1000")
        env = server.env | {
            "MINITOOLAI_DATABASE_URL": f"postgresql://{USER}:x@{hosts}/{name}?target_session_attrs=read-write",
            "MINITOOLAI_OBJECT_STORE": "s3://pictures/ours",
            "MINITOOLAI_S3_ENDPOINT": endpoint,
            "MINITOOLAI_S3_REGION": REGION,
            "MINITOOLAI_S3_ACCESS_KEY_ID": "test",
            "MINITOOLAI_S3_SECRET_ACCESS_KEY": "test",
            "MINITOOLAI_IMAGE_QUEUE_WITHOUT_WORKERS": "1",
            # The jobs of ten minutes wait for the bucket.
            "MINITOOLAI_IMAGE_QUEUE": "10000",
        }
        made = Site(machines, primary, standby, account, tmp_path, env)
        for each in (*API, *WORKERS):
            (tmp_path / each).mkdir(mode=0o700)
            shutil.copy(server.data_dir / "secret.key", tmp_path / each)
            made.start(each)
            stack.callback(lambda each=each: _end(made.programs[each]))
        made.programs["lb"] = made.on("lb").popen(haproxy_command(made.machines, made.folder))
        stack.callback(lambda: _end(made.programs["lb"]))
        for each in API:
            url = f"http://{made.on(each).address}:{PORT}"
            eventually(lambda url=url: is_ready(made.on("client"), url), within_s=60, every_s=0.3)
        # The balancer asks each second.
        eventually(lambda: is_ready(made.on("client"), made.url), within_s=20, every_s=0.3)
        time.sleep(2)
        yield made


def _end(process: Any) -> None:
    process.kill()
    process.wait()


def _made_bucket(endpoint: str) -> bool:
    try:
        make_bucket(endpoint, "pictures")
    except requests.RequestException:
        return False
    return True


# ── callers ───────────────────────────────────────────────────────────────────────────────────────────────


def _repeated(site: Site, path: str, body: dict[str, Any], give_up_s: float) -> dict[str, Any] | None:
    """Ask with an idempotency key until there is an answer, as a careful client does. None: there is none."""
    headers = site.account.headers | {"idempotency-key": uuid.uuid4().hex}
    said = ""
    while time.monotonic() < give_up_s:
        try:
            answer = requests.post(site.url + path, json=body, headers=headers, timeout=20)
        except requests.RequestException as error:
            site.refuse(type(error).__name__)
        else:
            if answer.status_code == 200:
                site.answered_s.append(time.monotonic())
                return answer.json()  # type: ignore[no-any-return]
            said = f"{answer.status_code} {answer.text[:300]}"
            site.refuse(answer.status_code)
            if "idempotency_spent" in said:
                site.spent.append(said)
                return None
            if answer.status_code not in (409, 500, 502, 503, 504):
                site.unexpected.append(said)
                return None
        time.sleep(0.3)
    site.unexpected.append(f"no answer from {path}, at last {said}")
    return None


def _chat(site: Site, until_s: float) -> None:
    site.on("client").enter()
    body = {"model": "quick", "messages": [{"role": "user", "content": "word"}], "max_completion_tokens": 8}
    while time.monotonic() < until_s:
        if (answer := _repeated(site, "/v1/chat/completions", body, until_s + 60)) is not None:
            site.usage.append(answer["usage"])
        time.sleep(0.1)


def _draw(site: Site, until_s: float) -> None:
    site.on("client").enter()
    while time.monotonic() < until_s:
        body = {"model": "quick", "prompt": uuid.uuid4().hex, "steps": 4, "width": 256, "height": 256}
        if (answer := _repeated(site, PATH, body, until_s + 60)) is not None:
            site.jobs.append(answer)
        time.sleep(0.5)


def _stream(site: Site, until_s: float) -> None:
    site.on("client").enter()
    body = {"model": "slow", "messages": [{"role": "user", "content": "word"}], "max_completion_tokens": 30}
    while time.monotonic() < until_s:
        pieces, whole = 0, False
        with suppress(requests.RequestException):
            ask = requests.post(
                site.url + "/v1/chat/completions",
                json=body | {"stream": True},
                headers=site.account.headers,
                timeout=20,
                stream=True,
            )
            with ask:
                for line in ask.iter_lines():
                    pieces += b'"content"' in line
                    whole = whole or line == b"data: [DONE]"
        if pieces:
            site.streams.append((whole, pieces))
        time.sleep(0.1)


# ── the proof ─────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_that_was_acknowledged_is_lost(site: Site) -> None:
    began_s = time.monotonic()
    until_s = began_s + LASTS_S
    callers = [*[_chat] * 4, *[_stream] * 2, _draw]
    threads = [threading.Thread(target=caller, args=(site, until_s), daemon=True) for caller in callers]
    for thread in threads:
        thread.start()
    _disturb(site, began_s, until_s)
    for thread in threads:
        thread.join(LASTS_S + 120)
    print(f"{len(site.unexpected)} unexpected answers: {Counter(one[:80] for one in site.unexpected)}")
    settled = "SELECT count(*) FROM generations WHERE state IN ('queued', 'running')"
    books = ServerProcess(site.folder / "books", env={"MINITOOLAI_DATABASE_URL": site.standby.local(_name(site))})
    eventually(lambda: books.read(lambda c: c.execute(settled)) == [(0,)], within_s=180, every_s=1)
    _check_answers(site, books)
    assert site.unexpected == []
    _check_refusals(site)


def _name(site: Site) -> str:
    return site.env["MINITOOLAI_DATABASE_URL"].rpartition("/")[2].partition("?")[0]


def _disturb(site: Site, began_s: float, until_s: float) -> None:
    """Take the bucket away, take the power of one machine after the other, and promote the standby once."""
    time.sleep(3)
    site.on("s3").cut()
    promoted = False
    for name in cycle((API[0], WORKERS[0], API[1], WORKERS[1])):
        site.lose_power(name)
        time.sleep(DARK_S)
        site.power_up(name)
        if not promoted and time.monotonic() > began_s + LASTS_S / 3:
            promoted = True
            # Not while a machine starts.
            time.sleep(3)
            site.losses_s.append(time.monotonic())
            site.on("db1").cut()
            site.primary.stop(signal.SIGQUIT)
            site.standby.execute("SELECT pg_promote(true, 10)")
        time.sleep(max(0.0, EVERY_S - DARK_S))
        if time.monotonic() > began_s + 3 + AWAY_S:
            site.on("s3").heal()
        if time.monotonic() > until_s:
            break
    assert promoted


def _check_answers(site: Site, books: ServerProcess) -> None:
    def ask(sql: str) -> list[Any]:
        return books.read(lambda c: c.execute(sql))  # type: ignore[no-any-return]

    states = Counter(dict(ask("SELECT model || ' ' || kind || ' ' || state, count(*) FROM generations GROUP BY 1")))
    print(f"{dict(states)}; {len(site.usage)} chats answered, {Counter(whole for whole, _ in site.streams)} streams")
    # Each answer is in the books, and nothing else of its kind: a caller that repeats gets the one that was charged.
    unanswered = states["quick chat succeeded"] - len(site.usage)
    print(f"{unanswered} charged without an answer, {len(site.spent)} repetitions refused")
    assert len(site.usage) >= LASTS_S
    assert (unanswered, site.spent) == (0, [])
    told = sum(one["prompt_tokens"] * INPUT + one["completion_tokens"] * OUTPUT for one in site.usage)
    assert ask("SELECT coalesce(sum(cost), 0) FROM generations WHERE model = 'quick' AND kind = 'chat'") == [(told,)]
    # Every job that was acknowledged was drawn, once charged, and its file is there.
    assert states["quick image succeeded"] == len(site.jobs) >= LASTS_S / 2
    assert states["quick image failed"] == 0
    assert ask("SELECT coalesce(sum(cost), 0) FROM generations WHERE kind = 'image'") == [(len(site.jobs) * PRICE,)]
    site.on("client").call(lambda: _check_files(site))
    # Streams that ended whole were charged as they said; of broken ones at most what was made before the loss.
    assert states["slow chat succeeded"] >= sum(whole for whole, _ in site.streams) > 0
    books.check_books()


def _check_files(site: Site) -> None:
    for job in site.jobs[:: max(1, len(site.jobs) // 20)]:
        body = {"jobid": job["jobid"], "signature": job["signature"]}
        said = requests.post(f"{site.url}{PATH}jobs/", json=body, timeout=30).json()
        assert said["status"] == "success", said
        link = said["image_url"]
        answer = requests.get(site.url + "/" + link.split("/", 3)[3], timeout=30)
        assert answer.content.startswith(b"\x89PNG"), answer.text[:200]


def _check_refusals(site: Site) -> None:
    """Check that callers were refused only for a short time after each loss."""
    after, waiting = (
        [
            min((at_s - lost_s for lost_s in site.losses_s if lost_s <= at_s), default=-1)
            for at_s, why in site.refused
            if (why == 409) is in_progress
        ]
        for in_progress in (False, True)
    )
    gaps = [b - a for a, b in itertools.pairwise(sorted(site.answered_s))]
    kinds = dict(Counter(str(why) for _, why in site.refused))
    print(
        f"{len(site.losses_s)} losses; {len(after)} refusals {kinds}, the last {max(after, default=0):.1f} s after one;"
        f" the longest time without an answer {max(gaps):.1f} s"
    )
    assert all(0 <= one <= REFUSED_S for one in after), sorted(after)[-5:]
    assert all(0 <= one <= IN_PROGRESS_S for one in waiting), sorted(waiting)[-5:]
    assert max(gaps) <= REFUSED_S
