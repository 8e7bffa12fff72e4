"""The proofs of docs/ledger.md as one list for each database, in a short form and at length."""

from __future__ import annotations

import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.burst import run_burst
from tests.chaos.findings import Finding
from tests.chaos.jobs import run_jobs
from tests.chaos.load import run_load
from tests.chaos.power import run_power
from tests.chaos.processes import EACH, PROCESSES, run_process_burst
from tests.chaos.simulation import run_simulation
from tests.chaos.streams import run_streams
from tests.chaos.walks import run_walks
from tests.chaos.worker_jobs import run_worker_jobs
from tests.support.cluster import Cluster, running_cluster
from tests.support.kills import run_kills
from tests.support.lost_commits import run_lost_commits
from tests.support.storm import run_storms


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    walks: int
    #: Seeds of the simulation, on each database.
    simulated: int
    #: Every so manieth mutant of the ledger is tried.
    every: int
    bursts: int
    kills: int
    #: Moments at which the power goes below SQLite.
    cuts: int
    #: Runs in which connections to PostgreSQL break at COMMIT.
    lost: int
    storms: int
    streams: int
    jobs: int
    jobs_s: float
    #: Streams at once, and for how long.
    crowd: int
    crowd_s: int
    seed: int = 1


SHORT = Size(
    walks=4,
    simulated=100,
    every=12,
    bursts=1,
    kills=4,
    cuts=60,
    lost=2,
    storms=1,
    streams=72,
    jobs=100,
    jobs_s=8,
    crowd=200,
    crowd_s=8,
)
LONG = Size(
    walks=100,
    simulated=5000,
    every=1,
    bursts=5,
    kills=100,
    cuts=2000,
    lost=40,
    storms=5,
    streams=800,
    jobs=500,
    jobs_s=90,
    crowd=2000,
    crowd_s=60,
)


@dataclass(frozen=True)
class Place:
    """Where a proof works. No cluster: SQLite."""

    folder: Path
    cluster: Cluster | None = None

    @property
    def database(self) -> str:
        return "postgres" if self.cluster else "sqlite"

    def url(self) -> str:
        """A new database; empty for SQLite, where every folder has its own."""
        return self.cluster.url(self.cluster.create()) if self.cluster else ""

    def room(self, name: str) -> Path:
        """A folder of its own."""
        path = self.folder / name
        path.mkdir()
        return path


Proof = Callable[[Place, Size], Finding]
#: Milliseconds that the load may add to a first token while other proofs have the processors, too; alone it is 20.
BUSY_MS = 500.0


def walks(place: Place, size: Size) -> Finding:
    # What a mutant does not do in memory it does not do on a server either, only slower: there a third of them.
    every = size.every * 3 if place.cluster else size.every
    done = run_walks(size.walks, every=every, seed=size.seed, url=place.url())
    what = f"{done.operations} operations beside a model; {done.killed} of {done.mutants} wrong ledgers found out"
    return Finding("1 model", place.database, what, seeds=done.seeds, mutants=done.killed, violations=done.violations)


def simulation(place: Place, size: Size) -> Finding:
    seeds = range(size.seed, size.seed + size.simulated)
    done = run_simulation(seeds, is_shared=place.cluster is not None)
    what = (
        f"{done.faults} faults and {done.crashes} crashes in virtual time, {done.seconds:.0f} s; trace {done.trace[:8]}"
    )
    return Finding(
        "8 simulation",
        place.database,
        what,
        acknowledged=done.acknowledged,
        seeds=done.seeds,
        violations=done.violations,
    )


def burst(place: Place, size: Size) -> Finding:
    if place.cluster:
        many = run_process_burst(place.cluster, size.bursts)
        what = f"{many.bursts} × {PROCESSES} processes × {EACH} holds; commits/holds {many.commits_a_hold:.3f}"
        what += f", {many.deadlocks} deadlocks"
        return Finding("2 burst", "postgres", what, acknowledged=many.granted, violations=many.violations)
    one = run_burst(place.room("burst"), size.bursts)
    what = f"{one.bursts} × 500 callers on an account for 100: {one.answers} answers, {one.refusals} refusals"
    return Finding("2 burst", "sqlite", what, acknowledged=one.answers, violations=one.violations)


def kills(place: Place, size: Size) -> Finding:
    done = run_kills(place.room("kills"), size.kills, seed=size.seed, url=place.url())
    what = f"the server killed under load; {done.broken_off} answers broken off"
    return Finding(
        "3 kill -9",
        place.database,
        what,
        kills=done.kills,
        acknowledged=done.acknowledged,
        violations=done.violations,
    )


def lost_commits(place: Place, size: Size) -> Finding:
    assert place.cluster is not None
    done = run_lost_commits(place.cluster, range(size.seed, size.seed + size.lost))
    what = f"{done.broken} connections broken at COMMIT"
    return Finding(
        "4 lost COMMIT", "postgres", what, acknowledged=done.answers, seeds=done.seeds, violations=done.violations
    )


def power(place: Place, size: Size) -> Finding:
    done = run_power(place.room("power"), size.cuts, seed=size.seed)
    what = f"{done.cuts} power cuts in {done.seeds} histories; unsynced writes lost or torn"
    return Finding(
        "4 power cut", "sqlite", what, acknowledged=done.acknowledged, seeds=done.seeds, violations=done.violations
    )


def storm(place: Place, size: Size) -> Finding:
    done = run_storms(place.room("storm"), size.storms, seed=size.seed, url=place.url())
    what = f"{done.events} events of {3 * done.storms} payments, {done.forged} forged"
    return Finding("5 webhook storm", place.database, what, seeds=done.storms, violations=done.violations)


def streams(place: Place, size: Size) -> Finding:
    done = run_streams(place.room("streams"), size.streams, seed=size.seed, url=place.url())
    what = f"{done.whole} whole, {done.broken} broken off, {done.left} left, {done.refused} refused"
    return Finding("6 streams", place.database, what, acknowledged=done.whole, violations=done.violations)


def jobs(place: Place, size: Size) -> Finding:
    if place.cluster:
        apart = run_worker_jobs(
            place.room("jobs"),
            place.cluster,
            jobs=size.jobs,
            chaos_s=size.jobs_s,
            nap_s=min(30.0, size.jobs_s / 4),
            outage_s=min(20.0, size.jobs_s / 4),
            seed=size.seed,
        )
        what = f"{apart.jobs} jobs, 3 workers: {apart.naps} frozen; {apart.succeeded} drawn, {apart.failed} failed"
        drawn, killed, violations = apart.succeeded, apart.kills, apart.violations
    else:
        inside = run_jobs(
            place.room("jobs"), jobs=size.jobs, chaos_s=size.jobs_s, sketches=size.jobs // 20, seed=size.seed
        )
        what = f"{inside.jobs} jobs: {inside.freezes} frozen, {inside.restarts} restarts;"
        what += f" {inside.succeeded} drawn, {inside.failed} failed"
        drawn, killed, violations = inside.succeeded, inside.kills, inside.violations
    return Finding("7 jobs", place.database, what, kills=killed, acknowledged=drawn, violations=violations)


def load(place: Place, size: Size) -> Finding:
    done = run_load(place.room("load"), size.crowd, size.crowd_s, url=place.url())
    what = f"{done.streams} streams at once for {done.seconds:.0f} s, a token a second each;"
    what += f" memory {done.early_mb:.0f} → {done.late_mb:.0f} MB, first token +{done.added_ms:.0f} ms"
    if done.added_ms > BUSY_MS:
        done.violations.append(f"{done.added_ms:.0f} ms were added to the first token, beside other proofs")
    return Finding("9 load", place.database, what, acknowledged=done.streams, violations=done.violations)


ON_SQLITE: list[Proof] = [walks, simulation, burst, kills, power, storm, streams, jobs, load]
ON_POSTGRES: list[Proof] = [walks, simulation, burst, kills, lost_commits, storm, streams, jobs]


DATABASES = {"sqlite": ON_SQLITE, "postgres": ON_POSTGRES}


#: How often a long proof says that it goes on.
SIGN_OF_LIFE_S = 30.0


def timed(proof: Proof, place: Place, size: Size) -> Finding:
    """What it found, and how long that took; whatever it raises is a violation."""
    started_s = time.monotonic()
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.wait(SIGN_OF_LIFE_S):
            _tell(f"{time.monotonic() - started_s:5.0f} s  {place.database}: {proof.__name__} goes on")

    threading.Thread(target=go_on, daemon=True).start()
    try:
        found = proof(place, size)
    except Exception as error:  # noqa: BLE001 - the other proofs go on
        found = Finding(proof.__name__, place.database, "broke off", violations=[repr(error)[:2000]])
    finally:
        is_over.set()
    found.seconds = time.monotonic() - started_s
    return found


def prove(database: str, only: list[str], size: Size, until_s: float = math.inf) -> list[Finding]:
    """The proofs of one database, one after the other, each told of as it ends; none begins after this time."""
    found = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minitoolai-chaos-")))
        cluster = stack.enter_context(running_cluster()) if database == "postgres" else None
        place = Place(folder, cluster)
        for proof in DATABASES[database]:
            if only and proof.__name__ not in only:
                continue
            if time.time() < until_s:
                one = timed(proof, place, size)
            else:
                late = "not begun: the minutes were over"
                one = Finding(proof.__name__, database, "nothing", violations=[late])
            found.append(one)
            _tell(f"{one.seconds:5.0f} s  {database}: {one.proof}: {one.what}: {len(one.violations)} violations")
    return found


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
