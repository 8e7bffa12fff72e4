"""Image jobs in one process: real rows, writer, service and worker; an engine that behaves as the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

from minitoolai.billing.charging import Charging
from minitoolai.core.catalog.catalog import Catalog, EngineEntry, ImageModel
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import EngineError, StoreError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ImageJob, ImageJobRequest, SubmittedJob
from minitoolai.core.models import Caller
from minitoolai.core.signing import UrlSigner
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.images.attempt import JobServices
from minitoolai.images.moderation import PolicyChain
from minitoolai.images.progress import JobEvents
from minitoolai.images.scheduler import WorkerState
from minitoolai.images.service import ImageService
from minitoolai.images.worker import ImageWorker
from minitoolai.storage.object_store import LocalObjectStore
from minitoolai.storage.tables.jobs import ClaimedJob
from tests.support.books import TemporaryBooks

PRICE = 1_500_000
Behavior = Callable[[ImageRequest, OnProgress], Awaitable[bytes]]


async def at_once(request: ImageRequest, on_progress: OnProgress) -> bytes:
    """Return an image after as many steps as were requested."""
    for step in range(1, request.steps + 1):
        on_progress(step, request.steps)
        await asyncio.sleep(0)
    return f"{request.prompt} {request.seed}".encode()


class ScriptedEngine:
    """An image engine that runs `behavior` for every image."""

    def __init__(self, name: str = "engine", *, max_concurrency: int = 4, behavior: Behavior = at_once) -> None:
        self.name = name
        self.max_concurrency = max_concurrency
        self.max_images = 1
        self.behavior = behavior
        self.is_up = True
        self.why_not: str | None = None
        self.loras: Collection[str] | None = ()
        self.starts = 0
        #: (model, prompt) of every started image, in order.
        self.begun: list[tuple[str, str]] = []
        self.running = 0
        self.most_running = 0

    def why_not_ready(self, model: str) -> str | None:
        return self.why_not

    def lora_names(self, model: str) -> Collection[str] | None:
        return self.loras

    def batch_key(self, model: str, width: int, height: int) -> str:
        return f"{model} {width}x{height}"

    async def start(self) -> None:
        self.starts += 1

    async def stop(self) -> None: ...

    async def generate(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        self.begun.append((model, request.prompt))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return GeneratedImage(png=await self.behavior(request, on_progress), model=f"{self.name}-1")
        finally:
            self.running -= 1


class FlakyStore(LocalObjectStore):
    """A store that refuses objects while `fault` is set."""

    fault: str | None = None

    async def put(self, job_id: int, png: bytes) -> str:
        if self.fault:
            raise StoreError(self.fault)
        return await super().put(job_id, png)


class Studio:
    """The image slice on one database, with a worker if the test wants one."""

    def __init__(self, books: TemporaryBooks, folder: Path, *engines: ScriptedEngine, queue_limit: int = 100) -> None:
        self.books = books
        self.folder = folder
        self.engines = engines or (ScriptedEngine(),)
        self.catalog = _catalog([engine.name for engine in self.engines])
        self.clock = SystemClock()
        self.store = FlakyStore(folder / "objects")
        self.queue_limit = queue_limit

    @property
    def engine(self) -> ScriptedEngine:
        return self.engines[0]

    def run(self, test: Callable[[Studio], Coroutine[Any, Any, None]], *, with_worker: bool = True) -> None:
        """Run the test beside a writer and, unless told otherwise, a worker."""
        asyncio.run(self._run(test, with_worker))

    async def _run(self, test: Callable[[Studio], Coroutine[Any, Any, None]], with_worker: bool) -> None:
        with self.books.writer() as writer:
            self.writer = writer
            self.events = JobEvents()
            self.services = JobServices(self.books.database, writer, self.clock, self.store, self.events)
            self.service = ImageService(
                self.catalog,
                {engine.name: engine for engine in self.engines},
                self.services,
                Charging(writer, self.clock),
                policy=PolicyChain([]),
                signer=UrlSigner(b"test"),
                in_flight=InFlight(self.clock),
                queue_limit=self.queue_limit,
            )
            if not with_worker:
                await test(self)
                return
            async with self.worker():
                await test(self)

    @contextlib.asynccontextmanager
    async def worker(
        self, name: str = "worker", *, drain_s: float = 2.0, single_process: bool = True, on_demand: bool = False
    ) -> AsyncIterator[ImageWorker]:
        """Run a worker beside the test. `on_demand` lets its engines start with their first job."""
        engines = {engine.name: engine for engine in self.engines}
        names = frozenset(engines) if on_demand else frozenset()
        state = WorkerState(name=name, single_process=single_process, start_on_demand=names)
        worker = ImageWorker(self.catalog, engines, self.services, state)
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            await worker.drain(drain_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # ── shortcuts ─────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, account: int, prompt: str = "a sun", *, model: str = "first", **fields: Any) -> SubmittedJob:
        sized = {"width": 256, "height": 256} | fields
        return await self.service.submit(
            Caller(account, "key000000001"), ImageJobRequest(model=model, prompt=prompt, **sized)
        )

    async def get(self, job: SubmittedJob) -> ImageJob:
        return await self.service.get(job.job_id, job.signature)

    async def end(self, job: SubmittedJob, timeout_s: float = 20.0) -> ImageJob:
        """Return the job once it has ended."""
        ended = await self.service.wait(job, timeout_s)
        assert ended.is_over, ended
        return ended

    def row(self, job: SubmittedJob) -> tuple[Any, ...]:
        """Return state, attempt, failures and charged amount."""
        return self.books.rows(
            "SELECT g.state, g.attempt, g.failures, h.settled FROM generations g JOIN holds h ON h.id = g.id"
            " WHERE g.id = ?",
            job.job_id,
        )[0]

    def stored(self) -> set[str]:
        """Return the keys of all images in the store."""
        return {path.stem for path in self.folder.rglob("*.png")}


def failing(*errors: Exception, then: Behavior = at_once) -> Behavior:
    """Raise these errors, one per attempt, and then behave as `then`."""
    left = list(errors)

    async def generate(request: ImageRequest, on_progress: OnProgress) -> bytes:
        if left:
            raise left.pop(0)
        return await then(request, on_progress)

    return generate


def broken(request: ImageRequest, on_progress: OnProgress) -> Awaitable[bytes]:
    """Fail every attempt."""
    raise EngineError("the engine is broken")


def claimed_job() -> ClaimedJob:
    """Return a job as a claim gives it, without a row."""
    return ClaimedJob(1, 1, 1, 0, "first", PRICE, 7, '{"model": "first", "prompt": "a sun"}', 0)


def _catalog(names: list[str]) -> Catalog:
    entries = {name: EngineEntry(kind="fake", model="fake-1") for name in names}
    models = {name: ImageModel(name, PRICE, tuple(names), "") for name in ("first", "second", "third")}
    return Catalog(entries, {}, {}, models)


class Gate:
    """A behavior that waits after its first step until it is opened."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.begun = asyncio.Event()
        self.cancelled = 0

    async def generate(self, request: ImageRequest, on_progress: OnProgress) -> bytes:
        on_progress(1, request.steps)
        self.begun.set()
        try:
            await self.is_open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await at_once(request, on_progress)
