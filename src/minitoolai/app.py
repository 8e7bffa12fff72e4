"""The ASGI app, and the process around it: start-up in order, shutdown in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import math
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import uvicorn
from litestar.datastructures import State

from minitoolai.api.asgi import App, Receive, Scope, Send, sort_headers
from minitoolai.api.direct import unframed
from minitoolai.api.idempotency import IDEMPOTENCY_KEY, Idempotent
from minitoolai.api.images import ImageDesk
from minitoolai.api.notes import NOTES, Notes
from minitoolai.api.origins import is_preflight, preflight, welcome
from minitoolai.api.routes import hot_paths, image_paths, other_paths
from minitoolai.core.errors import EngineError, SettingsError
from minitoolai.core.request_facts import CURRENT
from minitoolai.engines.base import ChatEngine
from minitoolai.engines.base_images import ImageEngine
from minitoolai.engines.base_speech import SpeechEngine
from minitoolai.hangups import report_hangups
from minitoolai.listening import BACKLOG
from minitoolai.metrics import Page
from minitoolai.metrics_port import MetricsPort
from minitoolai.portal.routes import is_portals, portal
from minitoolai.services.webhooks import WebhookLog
from minitoolai.storage.accounts import KEYS_CHANNEL
from minitoolai.storage.database import Member
from minitoolai.storage.jobs import JOBS_CHANNEL
from minitoolai.wiring import Services

log = logging.getLogger(__name__)
Engine = ChatEngine | SpeechEngine | ImageEngine
_SLASHES = re.compile("//+")
#: Of the collector: a request makes hundreds of objects and leaves no ring; to look every 700 is work for nothing, and
#: to walk what belongs to two thousand answers stops everybody for a tenth of a second.
COLLECT_AFTER = (20_000, 20, 20)


def image_desk(services: Services) -> ImageDesk:
    """Whom the image endpoints ask."""
    images = services.images
    return ImageDesk(
        jobs=images.service,
        reports=services.reports,
        links=images.links,
        pictures=images.pictures,
        underway=services.underway,
        insecure_webhooks=services.settings.webhook_insecure,
        wait_s=services.settings.total_timeout_s,
    )


class Server:
    """One serving process: the app, its background tasks, and whether it is ready."""

    def __init__(self, services: Services, *, engines_first: bool = False) -> None:
        self._services = services
        self._engines_first = engines_first
        self._member: Member | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._why_not_ready: str | None = "starting"
        desk = image_desk(services)
        state = State(
            {
                "keyring": services.keys,
                "reports": services.reports,
                "why_not_ready": self.why_not_ready,
                "image_desk": desk,
                "webhook_log": WebhookLog(services.database, services.images.webhook_secrets),
            }
        )
        self._hot = hot_paths(services.chats, services.speech, services.keys) | image_paths(desk, services.keys)
        self._other: Any = other_paths(state)
        self._portal: Any = portal(services.site)
        self._idempotent = Idempotent(services.replays, services.keys)
        self._metrics = MetricsPort(services.settings, Page(services, self.why_not_ready).text)
        self._count = services.chats.charging.meters.request

    def why_not_ready(self) -> str | None:
        """None once requests will be served."""
        if self._services.underway.draining:
            return "stopping"
        return self._why_not_ready

    def route_of(self, scope: Scope) -> str | None:
        """Under which of our routes an answered request came in, as the documentation writes it."""
        path: str = scope["path"]
        return path.rstrip("/") if path in self._hot else scope.get("path_template")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. The hot paths go by a dictionary, pages to the portal, everything else to the API."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        headers = sort_headers(scope)
        scope[NOTES] = notes = Notes(send, headers.get(b"x-request-id", b""))
        CURRENT.set(notes)
        notes.sign()
        if scope["http_version"] == "1.0":
            send = unframed(send)
        try:
            handler = self._handler(scope, headers, notes)
            if IDEMPOTENCY_KEY in headers and scope["method"] == "POST" and handler is not self._portal:
                name = headers[IDEMPOTENCY_KEY].decode("latin-1")
                await self._idempotent(handler, name, scope, receive, send)
                return
            await handler(scope, receive, send)
        finally:
            # They hold the server's end of this request, and it the scope: only the collector could free the two.
            del scope[NOTES]

    def _handler(self, scope: Scope, headers: dict[bytes, bytes], notes: Notes) -> App:
        """Whom a path belongs to; counted by the way."""
        path = scope.get("path", "")
        handler: App | None = self._hot.get(path)
        if handler is None and "//" in path:
            # Of a base URL that ends in a slash.
            path = scope["path"] = _SLASHES.sub("/", path)
            handler = self._hot.get(path)
        if (b"origin" in headers or scope["method"] == "OPTIONS") and path.startswith(("/v1/", "/api/")):
            if is_preflight(scope):
                return preflight
            welcome(scope, notes)
        if handler is not None:
            self._count(path)
            return handler
        if is_portals(path):
            self._count("portal")
            return self._portal  # type: ignore[no-any-return]
        self._count("other")
        return self._other  # type: ignore[no-any-return]

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._running())
            except Exception as error:
                log.exception("the server could not start")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        services = self._services
        self._join_others()
        await self._metrics.open()
        services.writer.start()
        if not services.database.is_shared:
            # No other process can be renewing holds or jobs on this file: recover all of them, at once.
            await services.auditor.recover(all_of_them=True)
            await services.images.worker.recover(all_of_them=True)
        self._tasks = [
            asyncio.create_task(services.underway.keep_time()),
            asyncio.create_task(services.auditor.run()),
            asyncio.create_task(services.sweeper.run()),
            asyncio.create_task(services.images.worker.run()),
            asyncio.create_task(services.images.sweeper.run()),
            asyncio.create_task(services.images.webhooks.run()),
            asyncio.create_task(services.site.run()),
        ]
        if self._engines_first:
            await self._start_engines()
        else:
            self._tasks.append(asyncio.create_task(self._start_engines()))
        # What is here now stays for good; the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        try:
            yield
        finally:
            await asyncio.gather(services.underway.drain(2.0), services.images.worker.drain(2.0))
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(engine.stop() for engine in services.engines.values()))
            await asyncio.gather(*(engine.stop() for engine in services.speech_engines.values()))
            await asyncio.gather(*(engine.stop() for engine in services.images.engines.values()))
            await self._metrics.close()
            await services.site.close()
            await services.http.close()
            await asyncio.to_thread(services.writer.stop)
            if services.tracing is not None:
                await asyncio.to_thread(services.tracing.close)
            if self._member is not None:
                await asyncio.to_thread(self._member.stop)
            services.database.close()

    def _join_others(self) -> None:
        """Where other processes work on the same database: a number for our identifiers, an ear for revoked keys."""
        loop = asyncio.get_running_loop()

        def heard(channel: str | None, said: str | None) -> None:
            loop.call_soon_threadsafe(self._hear, channel, said)

        self._member = self._services.database.member((KEYS_CHANNEL, JOBS_CHANNEL), heard)
        if self._member is not None:
            self._services.clock.number = self._member.start()

    def _hear(self, channel: str | None, said: str | None) -> None:
        if channel is None and self._member is not None:
            self._services.clock.number = self._member.number
        if channel in (None, JOBS_CHANNEL):
            self._services.images.worker.board.new_work()
        if channel in (None, KEYS_CHANNEL):
            self._services.keys.forget(said)

    async def _start_engines(self) -> None:
        """Those that some model would use now, but for pictures that can wait; the others would only cost memory."""
        chats, speech = self._services.chats, self._services.speech
        used: dict[str, Engine] = {}
        for model in [*chats.catalog.chat.values(), *chats.catalog.embeddings.values()]:
            if (engine := chats.engine_for(model)) is not None:
                used[f"chat {engine.name}"] = engine
        for voice in self._services.reports.voices():
            used[f"speech {voice.engine}"] = speech.engines[voice.engine]
        images = self._services.images.service
        for picture in images.catalog.images.values():
            drawer = images.engine_for(picture)
            if drawer is not None and drawer.name not in self._services.images.worker.late:
                used[f"images {drawer.name}"] = drawer
        await asyncio.gather(*(_start(engine) for engine in used.values()))
        self._why_not_ready = None


async def _start(engine: Engine) -> None:
    try:
        await engine.start()
    except (EngineError, OSError) as error:
        log.error("engine %s did not start: %s", engine.name, error)


class _Uvicorn(uvicorn.Server):
    """Stops by our rules: streams first, then a clean exit status."""

    def __init__(self, config: uvicorn.Config, services: Services, ready: Any) -> None:
        super().__init__(config)
        self._services = services
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """SIGTERM and SIGINT let streams finish; a second one does not wait. Exit status 0. SIGHUP is logged."""
        loop = asyncio.get_running_loop()
        report_hangups(loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        """Listen no more and let go of idle connections; only then refuse: nobody is refused who need not be."""
        services, within_s = self._services, self._services.settings.drain_timeout_s
        self._drain = asyncio.gather(services.underway.drain(within_s), services.images.worker.drain(within_s))
        await super().shutdown(sockets)

    async def startup(self, sockets: Any = None) -> None:
        """Listen, then say where."""
        try:
            await super().startup(sockets)
        except SystemExit:
            if self.lifespan.should_exit:
                raise
            where = f"{self.config.host}:{self.config.port}"
            raise SettingsError(
                f"cannot listen on {where}: is another program there? Choose another --host or --port"
            ) from None
        for server in getattr(self, "servers", []):
            for listening in server.sockets:
                port = listening.getsockname()[1]
                self._services.images.address.listening_on(port)
                self._ready(port)
                return


def serve(services: Services, *, ready: Any, listening: socket.socket | None = None) -> None:
    """Serve until told to stop; `ready(port)` is called once, as soon as requests are accepted.

    `listening`: a socket that other processes accept from, too; requests are then taken only once they will be served.
    SettingsError if another server works on the same data folder.
    """
    settings = services.settings
    with contextlib.nullcontext() if services.database.is_shared else only_server(settings.data_dir):
        server = Server(services, engines_first=listening is not None)
        config = uvicorn.Config(
            server if services.tracing is None else services.tracing.app(server, server.route_of),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=settings.access_log,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            # Our own drain tells each caller why; this is a net below it.
            timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s) + 5,
            backlog=BACKLOG,
        )
        _Uvicorn(config, services, ready).run([listening] if listening is not None else None)


@contextlib.contextmanager
def only_server(data_dir: Path) -> Any:
    """Hold the folder's lock; the kernel lets go of it however the process ends."""
    file: IO[str] = (data_dir / "serve.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(
            f"another minitoolai serve works on {data_dir} already, and two would corrupt its books; "
            "stop it, or choose another --data-dir"
        ) from None
    try:
        yield
    finally:
        file.close()
