"""`minitoolai serve` and `worker`: everything is prepared, then it runs until a signal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from minitoolai.accounts import keys as account_service
from minitoolai.billing import payments
from minitoolai.bootstrap import Services, build
from minitoolai.cli.common import CLOCK, prepare, say, write
from minitoolai.core.errors import SettingsError
from minitoolai.core.money import parse_dollars
from minitoolai.observability.metrics import MetricsPage, MetricsPort
from minitoolai.paths import load_secret_keys
from minitoolai.settings import Settings
from minitoolai.storage import accounts
from minitoolai.storage.database import Connection
from minitoolai.storage.jobs import JOBS_CHANNEL

# (merged from worker) `minitoolai worker`: more hands for image jobs, on any machine that reaches the database and the object store.
# (merged from worker)
# (merged from worker) It claims, draws, keeps and settles as the worker inside `serve` does; it answers no requests. On SQLite, where one
# (merged from worker) process writes, there is none: serve has its own inside.

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

    def heard(channel: str | None, _: str | None) -> None:
        loop.call_soon_threadsafe(worker.board.notify_queued)

    metrics = MetricsPort(
        services.settings, MetricsPage(services.metric_sources(), lambda: "stopping" if is_over.is_set() else None).text
    )
    registration = services.database.membership((JOBS_CHANNEL,), heard)
    await metrics.open()
    services.writer.start()
    drawing = asyncio.create_task(worker.run())
    try:
        if registration is not None:
            await asyncio.to_thread(registration.start)
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
        if registration is not None:
            await asyncio.to_thread(registration.stop)
        services.database.close()


async def _first(*ways: Coroutine[Any, Any, object]) -> None:
    """Until one of these is over; the others are cancelled."""
    tasks = [asyncio.create_task(way) for way in ways]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


DEMO_EMAIL = "demo@example.com"
DEMO_CREDIT = "5.00"
EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - read, not bound


def serve(settings: Settings, options: argparse.Namespace) -> int:
    """serve [--host H] [--port P] [--data-dir D] [--workers N] [--demo]"""
    from minitoolai import app
    from minitoolai.http import server as listening
    from minitoolai.http import supervisor

    _check_shared(settings)
    listening.allow_many_connections()
    if options.listening is not None:
        # One of several, started by the supervisor: it has prepared everything.
        supervisor.belong_to_supervisor()
        app.serve(build(settings), ready=lambda _: say("ready"), listening=listening.inherited(options.listening))
        return 0
    prepare(settings)

    def ready(port: int) -> None:
        host = "127.0.0.1" if settings.host in EVERY_ADDRESS else settings.host
        url = settings.public_url or f"http://{host}:{port}"
        say(f"MiniToolAI answers at {url}")
        if options.demo:
            # Made only now: a server that could not start leaves none behind.
            _print_demo(url, _demo_key(settings))

    if settings.workers > 1:
        bound = listening.bind(settings)
        port = bound.getsockname()[1]
        return supervisor.Supervisor(settings, bound, sys.argv[1:]).run(lambda: ready(port))
    app.serve(build(settings), ready=ready, listening=listening.bind(settings) if settings.reuse_port else None)
    return 0


def worker(settings: Settings, options: argparse.Namespace) -> None:
    """worker [--kinds image] [--device D] [--data-dir D]"""
    pass  # merged

    check(settings, options.kinds)
    prepare(settings)
    work(settings, ready=lambda where: say(f"MiniToolAI draws for {where}"))


def _check_shared(settings: Settings) -> None:
    """SettingsError for what only a database with many writers can do."""
    if settings.workers < 1:
        raise SettingsError("MINITOOLAI_WORKERS=0 is wrong: at least one process must serve")
    wanted = f"{settings.workers} workers" if settings.workers > 1 else "MINITOOLAI_REUSE_PORT"
    if (settings.workers > 1 or settings.reuse_port) and not settings.database_url:
        raise SettingsError(
            f"{wanted} cannot work on SQLite, where one process writes; set MINITOOLAI_DATABASE_URL to a PostgreSQL "
            "database, or serve with one worker"
        )


def _demo_key(settings: Settings) -> str:
    """A new key for the demo account, which is made where it is not there yet."""
    secret = load_secret_keys(settings)

    def change(connection: Connection) -> str:
        account_id = accounts.find_account(connection, DEMO_EMAIL)
        if account_id is None:
            account_id = accounts.create_account(connection, DEMO_EMAIL, None, CLOCK.now_ms())
            payments.grant(connection, CLOCK, account_id, parse_dollars(DEMO_CREDIT), reason="demo credit")
        key = account_service.make_key(account_id, "demo", secret, CLOCK)
        accounts.insert_key(connection, key.row)
        return key.text

    return write(settings, change)


def _print_demo(url: str, key: str) -> None:
    body = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Which planet has the most moons?"}]}'
    say(f"\nThe demo account has a key (shown once):\n\n{key}\n\nPaste this into another terminal:\n")
    say(
        f"curl -N {url}/api/chat-completions/ -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'\n"
    )
    say(f"The portal is at {url}/: sign up there; without a mail server the link of its letter appears right here.\n")
