"""Image jobs in one process: real rows, writer, service and worker; an engine that does what the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from minitoolai.billing.charging import Charging
from minitoolai.core.catalog import Catalog, EngineEntry, ImageModel
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import EngineError, StoreError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ImageJob, ImageJobRequest, SubmittedJob
from minitoolai.core.models import Caller
from minitoolai.core.signing import UrlSigner
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.images.moderation import Policies
from minitoolai.images.progress import JobEvents
from minitoolai.images.service import ImageService
from minitoolai.images.worker import ImageWorker
from minitoolai.storage.object_store import LocalObjectStore
from tests.support.books import TemporaryBooks

PRICE = 1_500_000
Draw = Callable[[ImageRequest, OnProgress], Awaitable[bytes]]


async def at_once(request: ImageRequest, on_progress: OnProgress) -> bytes:
    """A picture of as many steps as were asked for."""
    for step in range(1, request.steps + 1):
        on_progress(step, request.steps)
        await asyncio.sleep(0)
    return f"{request.prompt} {request.seed}".encode()


class Painter:
    """An image engine whose every picture is drawn by `how`."""

    def __init__(self, name: str = "painter", *, max_concurrency: int = 4, how: Draw = at_once) -> None:
        self.name = name
        self.max_concurrency = max_concurrency
        self.how = how
        self.is_up = True
        self.why_not: str | None = None
        #: (model, prompt) of everything begun, in order.
        self.begun: list[tuple[str, str]] = []
        self.at_once = 0
        self.most_at_once = 0

    def why_not_ready(self, model: str) -> str | None:
        return self.why_not

    def batch_key(self, model: str, width: int, height: int) -> str:
        return f"{model} {width}x{height}"

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def generate(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        self.begun.append((model, request.prompt))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return GeneratedImage(png=await self.how(request, on_progress), model=f"{self.name}-1")
        finally:
            self.at_once -= 1


class Shelf(LocalObjectStore):
    """A store that is full while `fault` is set."""

    fault: str | None = None

    async def put(self, job_id: int, png: bytes) -> str:
        if self.fault:
            raise StoreError(self.fault)
        return await super().put(job_id, png)


class Studio:
    """Everything of image jobs beside one set of books."""

    def __init__(self, books: TemporaryBooks, folder: Path, *painters: Painter, queue_limit: int = 100) -> None:
        self.books = books
        self.folder = folder
        self.painters = painters or (Painter(),)
        self.catalog = _catalog([painter.name for painter in self.painters])
        self.clock = SystemClock()
        self.shelf = Shelf(folder / "objects")
        self.queue_limit = queue_limit

    @property
    def painter(self) -> Painter:
        return self.painters[0]

    def run(self, test: Callable[[Studio], Coroutine[Any, Any, None]], *, draws: bool = True) -> None:
        """Run the test beside a writer and, if it `draws`, a worker."""
        asyncio.run(self._run(test, draws))

    async def _run(self, test: Callable[[Studio], Coroutine[Any, Any, None]], draws: bool) -> None:
        with self.books.writer() as writer:
            self.writer = writer
            self.board = JobEvents()
            self.service = ImageService(
                self.catalog,
                {painter.name: painter for painter in self.painters},
                Charging(writer, self.clock),
                self.clock,
                InFlight(self.clock),
                self.books.database,
                writer,
                Policies([]),
                UrlSigner(b"test"),
                self.board,
                queue_limit=self.queue_limit,
            )
            if not draws:
                await test(self)
                return
            async with self.drawing():
                await test(self)

    @contextlib.asynccontextmanager
    async def drawing(self, name: str = "worker", *, drain_s: float = 2.0) -> AsyncIterator[ImageWorker]:
        """A worker beside the test."""
        worker = ImageWorker(
            self.catalog,
            {painter.name: painter for painter in self.painters},
            self.books.database,
            self.writer,
            self.clock,
            self.shelf,
            self.board,
            name=name,
            is_alone=True,
        )
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            await worker.drain(drain_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # ── in few words ──────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, account: int, prompt: str = "a sun", *, model: str = "first", **fields: Any) -> SubmittedJob:
        asked = {"width": 256, "height": 256} | fields
        return await self.service.submit(
            Caller(account, "key000000001"), ImageJobRequest(model=model, prompt=prompt, **asked)
        )

    async def look(self, job: SubmittedJob) -> ImageJob:
        return await self.service.look(job.job_id, job.signature)

    async def end(self, job: SubmittedJob, timeout_s: float = 20.0) -> ImageJob:
        """The job once it is over."""
        ended = await self.service.wait(job, timeout_s)
        assert ended.is_over, ended
        return ended

    def row(self, job: SubmittedJob) -> tuple[Any, ...]:
        """State, attempt, failures, what was charged."""
        return self.books.rows(
            "SELECT g.state, g.attempt, g.failures, h.settled FROM generations g JOIN holds h ON h.id = g.id"
            " WHERE g.id = ?",
            job.job_id,
        )[0]

    def kept(self) -> set[str]:
        """The keys of all pictures in the store."""
        return {path.stem for path in self.folder.rglob("*.png")}


def failing(*errors: Exception, then: Draw = at_once) -> Draw:
    """Raises these, one for each attempt, and then does as told."""
    left = list(errors)

    async def draw(request: ImageRequest, on_progress: OnProgress) -> bytes:
        if left:
            raise left.pop(0)
        return await then(request, on_progress)

    return draw


def broken(request: ImageRequest, on_progress: OnProgress) -> Awaitable[bytes]:
    """Never draws."""
    raise EngineError("the brush is broken")


def _catalog(names: list[str]) -> Catalog:
    engines = {name: EngineEntry(kind="fake", model="fake-1") for name in names}
    models = {name: ImageModel(name, PRICE, tuple(names), "") for name in ("first", "second", "third")}
    return Catalog(engines, {}, {}, models)
