"""What a fleet of workers costs PostgreSQL: CPU for each image job with one fake engine and with 300.

Each worker is a real `ImageWorker` with a fake engine; all of them share this process, its writer and its readers, so
only the database is measured. Jobs arrive at a steady rate that one engine can just draw. Run
`python -m bench.fleet --engines 1 300`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from tests.support.books import TemporaryBooks
from tests.support.cluster import Cluster, running_cluster

from minitoolai.billing.charging import Charging
from minitoolai.core.catalog.catalog import Catalog, EngineEntry, ImageModel
from minitoolai.core.clock import SystemClock
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ImageJobRequest
from minitoolai.core.models import Caller
from minitoolai.core.signing import UrlSigner
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.images.attempt import JobServices
from minitoolai.images.moderation import PolicyChain
from minitoolai.images.progress import JobEvents
from minitoolai.images.scheduler import LISTENERS, WorkerState
from minitoolai.images.service import ImageService
from minitoolai.images.worker import REGISTER_EVERY_S, ImageWorker
from minitoolai.ledger.rules import decide
from minitoolai.storage.database import Database
from minitoolai.storage.object_store import LocalObjectStore
from minitoolai.storage.opening import open_database
from minitoolai.storage.postgres.session import ProcessRegistration
from minitoolai.storage.tables.jobs import JOBS_CHANNEL
from minitoolai.storage.writer import Writer

PRICE, STEPS = 1000, 10
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class FleetEngine:
    """Draws nothing, in a given time, with steps."""

    name = "fleet"
    is_up = True
    max_images = 0

    def lora_names(self, model: str) -> frozenset[str]:
        """Return no names."""
        return frozenset()

    def __init__(self, rows: int, draw_s: float) -> None:
        self.max_concurrency, self._draw_s = rows, draw_s

    def why_not_ready(self, model: str = "") -> str | None:
        return None

    def batch_key(self, model: str, width: int, height: int) -> str:
        return model

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def generate(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        for step in range(1, STEPS + 1):
            await asyncio.sleep(self._draw_s / STEPS)
            on_progress(step, STEPS)
        return GeneratedImage(png=b"x", model="fleet")


@dataclass(frozen=True)
class FleetFigures:
    """What one run came to."""

    engines: int
    jobs: int
    idle_cpu: float
    cpu_ms_a_job: float
    wait_ms: float
    wait_p95_ms: float

    def __str__(self) -> str:
        return (
            f"{self.engines} engines: idle {self.idle_cpu:.1%} of a core, {self.jobs} jobs,"
            f" {self.cpu_ms_a_job:.2f} ms of PostgreSQL's CPU a job above idle,"
            f" begun after {self.wait_ms:.0f} ms (median), {self.wait_p95_ms:.0f} ms (p95)"
        )


def cpu_of(cluster: Cluster) -> float:
    """Return the CPU seconds of all processes of the server, with those that have ended."""
    pid, total = cluster.pid, 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if fields[1] == str(pid) or head.startswith(f"{pid} "):
            total += int(fields[11]) + int(fields[12])
            if head.startswith(f"{pid} "):
                total += int(fields[13]) + int(fields[14])
    return total / TICKS_PER_S


@asynccontextmanager
async def fleet_of(
    engines: int, database: Database, writer: Writer, clock: SystemClock, folder: Path, *, rows: int, draw_s: float
) -> AsyncIterator[ImageService]:
    """Run so many workers, and return a service that queues jobs for them."""
    entry, model = EngineEntry(kind="fake", model="fake-1"), ImageModel("fleet", PRICE, ("fleet",), "")
    catalog = Catalog({"fleet": entry}, {}, images={"fleet": model})
    store, loop = LocalObjectStore(folder), asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        for number in range(engines):
            events = JobEvents()
            services = JobServices(database, writer, clock, store, events)
            state = WorkerState(name=f"worker-{number:03}", single_process=False)
            worker = ImageWorker(catalog, {"fleet": FleetEngine(rows, draw_s)}, services, state)
            worker.only_draws = True
            if number < LISTENERS:
                registration = ProcessRegistration(
                    database.fleet_url,  # type: ignore[attr-defined]
                    (JOBS_CHANNEL,),
                    lambda *_, events=events: loop.call_soon_threadsafe(events.notify_queued),
                    is_numbered=False,
                )
                registration.start()
                stack.callback(registration.stop)
                worker.membership = registration
            task = asyncio.create_task(worker.run())
            stack.callback(task.cancel)
        own = JobServices(database, writer, clock, store, JobEvents())
        service = ImageService(
            catalog, {"fleet": FleetEngine(rows, draw_s)}, own, Charging(writer, clock),
            policy=PolicyChain([]), signer=UrlSigner(b"fleet"), in_flight=InFlight(clock), queue_limit=10**6,
        )  # fmt: skip
        yield service


async def measure(cluster: Cluster, engines: int, *, rate: float, seconds: float, draw_s: float) -> FleetFigures:
    """Queue jobs at a steady rate, and return what each cost the database."""
    url, clock = cluster.books(), SystemClock()
    books = TemporaryBooks(url)
    account = books.account(10**12)
    rows = max(1, round(rate * draw_s * 2))
    with TemporaryDirectory() as folder, closing(open_database(url, serving=True)) as database:
        database.fleet_url = url  # type: ignore[attr-defined]
        database.follow_time(clock.follow)
        writer = Writer(database, decide)
        writer.start()
        try:
            fleet = fleet_of(engines, database, writer, clock, Path(folder), rows=rows, draw_s=draw_s)
            async with fleet as service:
                # All have registered once, and know the size of their fleet.
                await asyncio.sleep(12)
                before, began_s = cpu_of(cluster), time.monotonic()
                # Whole periods: all workers report at about the same moment of each.
                await asyncio.sleep(ceil(seconds / 2 / REGISTER_EVERY_S) * REGISTER_EVERY_S)
                idle = (cpu_of(cluster) - before) / (time.monotonic() - began_s)
                before, began_s = cpu_of(cluster), time.monotonic()
                count = int(rate * seconds)
                request = ImageJobRequest(model="fleet", prompt="x", steps=STEPS, width=256, height=256)
                for number in range(count):
                    await service.submit(Caller(account, "key"), request)
                    await asyncio.sleep(max(0.0, began_s + (number + 1) / rate - time.monotonic()))
                await asyncio.sleep(draw_s + 1.5)
                spent, lasted_s = cpu_of(cluster) - before, time.monotonic() - began_s
        finally:
            writer.stop()
    with psycopg.connect(url) as connection:
        waits = connection.execute(
            "SELECT finished_ms - created_ms FROM generations WHERE state = 'succeeded'"
        ).fetchall()
    assert len(waits) == count, f"{len(waits)} of {count} jobs were drawn"
    waited = sorted(row[0] - draw_s * 1000 for row in waits)
    return FleetFigures(
        engines, count, idle, (spent - idle * lasted_s) * 1000 / count,
        statistics.median(waited), waited[int(len(waited) * 0.95)],
    )  # fmt: skip


def main() -> None:
    """Print one line for each size of the fleet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 300])
    parser.add_argument("--rate", type=float, default=20.0, help="jobs a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--draw", type=float, default=1.0, help="seconds that an image takes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, for bench.charts")
    options = parser.parse_args()
    found = []
    with running_cluster() as cluster:
        for engines in options.engines:
            figures = asyncio.run(
                measure(cluster, engines, rate=options.rate, seconds=options.seconds, draw_s=options.draw)
            )
            print(figures, flush=True)
            found.append(asdict(figures))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
