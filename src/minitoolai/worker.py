"""`minitoolai worker`: more hands for image jobs, on any machine that reaches the database and the object store.

It claims, draws, keeps and settles as the worker inside `serve` does; it answers no requests. On SQLite, where one
process writes, there is none: serve has its own inside.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from minitoolai.core.errors import SettingsError
from minitoolai.hangups import report_hangups
from minitoolai.metrics import Page
from minitoolai.metrics_port import MetricsPort
from minitoolai.settings import Settings
from minitoolai.storage.jobs import JOBS_CHANNEL
from minitoolai.wiring import Services, build

log = logging.getLogger(__name__)
KINDS = ("image",)


def check(settings: Settings, kinds: str) -> None:
    """SettingsError for what cannot work, with the remedy."""
    for kind in (kind.strip() for kind in kinds.split(",")):
        if kind not in KINDS:
            more = "; speech is spoken by serve itself" if kind == "speech" else ""
            raise SettingsError(f"--kinds {kinds!r} is wrong: a worker does {', '.join(KINDS)}{more}")
    if not settings.database_url:
        raise SettingsError(
            "a worker beside the server needs PostgreSQL: on SQLite one process writes, minitoolai serve, with its "
            "worker inside it; set MINITOOLAI_DATABASE_URL=postgresql://user:password@host:5432/minitoolai for both"
        )


def work(settings: Settings, *, ready: Callable[[str], None]) -> None:
    """Draw until told to stop: SIGTERM finishes what is under way or hands it back; a second one does not wait."""
    asyncio.run(_work(build(settings), ready))


async def _work(services: Services, ready: Callable[[str], None]) -> None:
    worker, loop = services.images.worker, asyncio.get_running_loop()
    # What is here for pictures alone does not wait for the first.
    worker.late = frozenset()
    is_over, is_urgent = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (is_urgent if is_over.is_set() else is_over).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    report_hangups(loop)

    def heard(channel: str | None, _: str | None) -> None:
        loop.call_soon_threadsafe(worker.board.new_work)

    metrics = MetricsPort(services.settings, Page(services, lambda: "stopping" if is_over.is_set() else None).text)
    member = services.database.member((JOBS_CHANNEL,), heard)
    await metrics.open()
    services.writer.start()
    drawing = asyncio.create_task(worker.run())
    try:
        if member is not None:
            await asyncio.to_thread(member.start)
        ready(services.database.where)
        await is_over.wait()
        await _first(worker.drain(services.settings.drain_timeout_s), is_urgent.wait())
    finally:
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        await asyncio.gather(*(engine.stop() for engine in services.images.engines.values()))
        await metrics.close()
        await services.http.close()
        await asyncio.to_thread(services.writer.stop)
        if services.tracing is not None:
            await asyncio.to_thread(services.tracing.close)
        if member is not None:
            await asyncio.to_thread(member.stop)
        services.database.close()


async def _first(*ways: Coroutine[Any, Any, object]) -> None:
    """Until one of these is over; the others are cancelled."""
    tasks = [asyncio.create_task(way) for way in ways]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
