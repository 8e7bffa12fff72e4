"""`minitoolai serve` and `minitoolai worker`: prepare the database, then run until a signal.

A worker runs image jobs beside a server, on any machine that reaches the database and the object store. It answers no
requests. It needs PostgreSQL, because on SQLite one process writes and `serve` has a worker inside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from importlib import util
from typing import TYPE_CHECKING, Any

from minitoolai.accounts.keys import make_key
from minitoolai.billing.payments import grant
from minitoolai.cli.common import CLOCK, Commands, add_command, prepare, say, write
from minitoolai.cli.fetch import fetching_for_demo
from minitoolai.core.errors import CatalogError, SettingsError
from minitoolai.core.money import parse_dollars
from minitoolai.core.threads import CONTROL, PLACEMENT, close_pools, prepare_heaps
from minitoolai.paths import catalog_path, load_secret_keys, tighten_data_dir
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection
from minitoolai.storage.migrating import migrate_apart
from minitoolai.storage.tables import accounts
from minitoolai.storage.tables.jobs import JOBS_CHANNEL

if TYPE_CHECKING:
    from minitoolai.bootstrap import Services


log = logging.getLogger(__name__)
KINDS = ("image",)
#: Look so often whether the Ray node of this machine lives. So many misses in a row, and it does not.
RAY_WATCH_EVERY_S, RAY_MISSED = 3.0, 2
DEMO_EMAIL = "demo@example.com"
DEMO_CREDIT = "5.00"
DEMO_KEY = "demo"
WILDCARD_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


def add_serve(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `serve`."""
    about = "run the API and the engines, in one process or several"
    parser = add_command(commands, "serve", about, serve, "serve --demo --port 8000")
    parser.add_argument("--host", help="address to listen on (MINITOOLAI_HOST; 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (MINITOOLAI_PORT; 8000)")
    parser.add_argument("--workers", type=int, help="processes; more than 1 needs PostgreSQL (MINITOOLAI_WORKERS; 1)")
    parser.add_argument("--listening", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--demo", action="store_true", help="create an account with $5; print a key and a curl command")


def add_worker(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `worker`."""
    about = "run image jobs beside a server, on this or any other machine (PostgreSQL only)"
    parser = add_command(commands, "worker", about, worker, "worker --device cuda:0")
    parser.add_argument("--kinds", default="image", help="kinds of jobs to run, separated by commas (image)")
    parser.add_argument("--device", help="device of your image models, such as cuda:0 or cpu (MINITOOLAI_DEVICE)")
    about_ray = 'run the engines with placement = "ray" on the Ray cluster at this address, and no others'
    parser.add_argument("--ray", metavar="HOST:PORT", help=about_ray)


# ── worker ────────────────────────────────────────────────────────────────────────────────────────────────


def worker(settings: Settings, options: argparse.Namespace) -> None:
    """Run image jobs until stopped."""
    from minitoolai.bootstrap import build

    check_worker(settings, options.kinds)
    prepare_heaps()
    leave, is_joined = None, None
    if options.ray:
        settings, leave, is_joined = _join_ray(settings, options.ray)
    prepare(settings, migrate_apart)
    tighten_data_dir(settings)
    draws = partial(_work, build(settings), lambda where: say(f"MiniToolAI draws for {where}"))
    is_restarting = asyncio.run(draws(is_joined))
    if leave is not None:
        leave()
    if is_restarting:
        # The same process ID, which a service manager knows.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very program again


def _join_ray(settings: Settings, address: str) -> tuple[Settings, Callable[[], None], Callable[[], bool]]:
    """Join a Ray cluster. Return the settings of a worker there, what leaves it, and what tells if it has joined."""
    from minitoolai.core.catalog.loader import read_catalog

    if not any(engine.placement == "ray" for engine in read_catalog(catalog_path(settings)).engines.values()):
        raise SettingsError(f'--ray {address}: no engine of the catalog has placement = "ray", so there is no work')
    if util.find_spec("ray") is None:
        raise SettingsError(f"--ray {address}: Ray is not installed; pip install 'minitoolai[ray]'")
    from minitoolai.engines.ray import cluster

    cluster.connect(address)
    log.info("joined the Ray cluster at %s: %s", address, cluster.facts().describe())
    return replace(settings, ray_address=address), cluster.disconnect, cluster.is_joined


def check_worker(settings: Settings, kinds: str) -> None:
    """Raise SettingsError, with the remedy, if a worker cannot run with these settings."""
    for kind in (kind.strip() for kind in kinds.split(",")):
        if kind not in KINDS:
            more = "; speech is generated by serve itself" if kind == "speech" else ""
            raise SettingsError(f"--kinds {kinds!r} is invalid: a worker runs {', '.join(KINDS)}{more}")
    if not settings.database_url:
        raise SettingsError(
            "a separate worker needs PostgreSQL: on SQLite, only minitoolai serve writes, and it has a "
            "worker inside; set MINITOOLAI_DATABASE_URL=postgresql://user:password@host:5432/minitoolai for both"
        )


class _WorkerSignals:
    """Signals of a worker: stop on SIGTERM and SIGINT, without waiting at the second, and start again on SIGHUP."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.stopping, self.forced = asyncio.Event(), asyncio.Event()
        self.restarting = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _stop(self) -> None:
        self.restarting = False
        (self.forced if self.stopping.is_set() else self.stopping).set()

    def _hang_up(self) -> None:
        """Restart, as `serve` does, unless the catalog that would be read has a mistake."""
        from minitoolai.core.catalog.loader import read_catalog

        try:
            read_catalog(catalog_path(self._settings))
        except CatalogError as error:
            log.error("not restarting on SIGHUP: %s", error)
            return
        log.info("restarting on SIGHUP, once the current jobs are finished")
        self.restarting = not self.stopping.is_set() or self.restarting
        self.stopping.set()


async def _watch_ray(is_joined: Callable[[], bool], signals: _WorkerSignals) -> None:
    """Start the worker again once the Ray node is lost through which it has joined the cluster."""
    missed = 0
    while missed < RAY_MISSED:
        await asyncio.sleep(RAY_WATCH_EVERY_S)
        missed = 0 if await PLACEMENT.run(is_joined) else missed + 1
    log.error("the Ray node of this machine was lost; joining the cluster again")
    signals.restarting = not signals.stopping.is_set()
    signals.stopping.set()


async def _work(services: Services, ready: Callable[[str], None], is_joined: Callable[[], bool] | None = None) -> bool:
    """Claim jobs until SIGTERM or SIGHUP, then finish or requeue the current ones; a second signal does not wait.

    Return True if the worker should start again: with the code that is now installed, and the catalog read anew.
    """
    from minitoolai.observability.metrics import MetricsPage
    from minitoolai.observability.metrics_port import MetricsPort
    from minitoolai.observability.watchdog import Watchdog

    worker, loop = services.images.worker, asyncio.get_running_loop()
    # A worker exists for images alone, so its engines start before the first job.
    worker.state.start_on_demand = frozenset()
    signals = _WorkerSignals(services.settings)

    def on_notify(channel: str | None, _: str | None) -> None:
        if channel is None:
            loop.call_soon_threadsafe(worker.registered_anew)
        loop.call_soon_threadsafe(worker.events.notify_queued)

    # A worker makes no IDs, so it needs no process number.
    registration = services.database.membership((JOBS_CHANNEL,), on_notify, is_numbered=False)

    def why_not_ready() -> str | None:
        if signals.stopping.is_set():
            return "stopping"
        return registration.why_not_ready() if registration is not None else None

    watchdog = Watchdog(lambda _: None)
    page = MetricsPage(services.metric_sources(), why_not_ready, watchdog.longest_s)
    metrics = MetricsPort(services.settings, page.render, why_not_ready)
    await metrics.open()
    services.writer.start()
    working = [asyncio.create_task(watchdog.run())]
    if is_joined is not None:
        working.append(asyncio.create_task(_watch_ray(is_joined, signals)))
    try:
        if registration is not None:
            await CONTROL.run(registration.start)
            worker.membership, worker.only_draws = registration, True
        working += [asyncio.create_task(worker.run()), asyncio.create_task(services.publisher.run())]
        ready(services.database.where)
        await signals.stopping.wait()
        await _first(worker.drain(services.settings.drain_timeout_s), signals.forced.wait())
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await asyncio.gather(*(engine.stop() for engine in services.images.engines.values()))
        await metrics.close()
        await services.http.close()
        await CONTROL.run(services.writer.stop)
        if services.tracing is not None:
            await CONTROL.run(services.tracing.close)
        if registration is not None:
            await CONTROL.run(registration.stop)
        services.database.close()
        close_pools()
    return signals.restarting


async def _first(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Wait until one of these ends, and cancel the others."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ── serve ─────────────────────────────────────────────────────────────────────────────────────────────────


def serve(settings: Settings, options: argparse.Namespace) -> int:
    """Serve until stopped: as one process, as the supervisor of several, or as one of those."""
    from minitoolai import app
    from minitoolai.bootstrap import build
    from minitoolai.http.serving import server, supervisor

    _check_shared(settings)
    settings = replace(settings, is_demo=options.demo)
    prepare_heaps()
    server.allow_many_connections()
    if options.listening is not None:
        # One of several processes, started by the supervisor, which has prepared everything.
        supervisor.attach_to_supervisor()
        app.serve(build(settings), ready=lambda _: say("ready"), listening=server.inherit_socket(options.listening))
        return 0
    prepare(settings, migrate_apart)
    tighten_data_dir(settings)
    fetching = contextlib.ExitStack()

    def ready(port: int) -> None:
        host = "127.0.0.1" if settings.host in WILDCARD_ADDRESSES else settings.host
        url = settings.public_url or f"http://{host}:{port}"
        say(f"MiniToolAI answers at {url}")
        if options.demo:
            # Only once the server runs, so that a failed start leaves no key behind.
            _print_demo(url, _demo_key(settings))
            fetching.enter_context(fetching_for_demo(settings))

    if settings.workers > 1:
        bound = server.bind_socket(settings)
        port = bound.getsockname()[1]
        return supervisor.Supervisor(settings, bound, sys.argv[1:]).run(lambda: ready(port))
    with fetching:
        app.serve(build(settings), ready=ready, listening=server.bind_socket(settings) if settings.reuse_port else None)
    return 0


def _check_shared(settings: Settings) -> None:
    """Raise SettingsError for settings that need a database with several writers."""
    if settings.workers < 1:
        raise SettingsError("MINITOOLAI_WORKERS=0 is invalid: at least one process must serve")
    wanted = f"{settings.workers} workers" if settings.workers > 1 else "MINITOOLAI_REUSE_PORT"
    if (settings.workers > 1 or settings.reuse_port) and not settings.database_url:
        raise SettingsError(
            f"{wanted} cannot work on SQLite, where one process writes; set MINITOOLAI_DATABASE_URL to a PostgreSQL "
            "database, or serve with one worker"
        )


def _demo_key(settings: Settings) -> str:
    """Create a key for the demo account, and the account if it does not exist. Revoke the key of the last demo."""
    secret, now_ms = load_secret_keys(settings), CLOCK.now_ms()

    def change(connection: Connection) -> str:
        account_id = accounts.find_account(connection, DEMO_EMAIL)
        if account_id is None:
            account_id = accounts.create_account(connection, DEMO_EMAIL, None, now_ms)
            grant(connection, CLOCK, account_id, parse_dollars(DEMO_CREDIT), reason="demo credit")
        for old in accounts.keys_of(connection, account_id):
            if old.name == DEMO_KEY and old.revoked_ms is None:
                accounts.revoke_key(connection, old.id, now_ms)
        key = make_key(account_id, DEMO_KEY, secret, CLOCK)
        accounts.insert_key(connection, key.row)
        return key.text

    return write(settings, change)


def _print_demo(url: str, key: str) -> None:
    question = '[{"role": "user", "content": "Which planet has the most moons?"}]'
    body = f'{{"model": "gpt-4o-mini", "stream": true, "messages": {question}}}'
    say(f"\nThe demo account has a key (shown once):\n\n{key}\n\nPaste this into another terminal:\n")
    say(
        f"curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'\n"
    )
    say(f"The portal is at {url}/. Sign up there; without a mail server, the confirmation link is printed here.\n")
