"""The ASGI app of a serving process: dispatch requests by path, start all services, and stop them in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitoolai.accounts.revocation import RevocationWatch
from minitoolai.api.openapi import describe
from minitoolai.api.routes import hot_paths, image_paths, other_paths
from minitoolai.bootstrap import Services
from minitoolai.core.errors import CatalogError, EngineError, SettingsError, StoreError, internal_error
from minitoolai.core.telemetry.logs import current_request
from minitoolai.core.threads import CONTROL, UPLOADS, close_pools
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.engines.protocols import ChatEngine, ImageEngine, SpeechEngine
from minitoolai.http.asgi import App, Receive, Scope, Send, respond_error, sort_headers
from minitoolai.http.idempotency import IDEMPOTENCY_KEY, Idempotent
from minitoolai.http.request_context import REQUEST_CONTEXT, RequestContext, allow_origin, is_preflight, preflight
from minitoolai.http.serving.fast_path import http10_body
from minitoolai.http.serving.lingering import linger_at_close
from minitoolai.http.serving.server import exclusive_data_dir, run_server
from minitoolai.images.webhooks import WebhookLog
from minitoolai.observability.metrics import MetricsPage
from minitoolai.observability.metrics_port import MetricsPort
from minitoolai.observability.watchdog import Watchdog
from minitoolai.portal.routes import is_portal_path, page_for_browser, portal
from minitoolai.storage.sqlite import exclusive_database
from minitoolai.storage.tables.accounts import KEYS_CHANNEL
from minitoolai.storage.tables.jobs import JOBS_CHANNEL

if TYPE_CHECKING:
    from minitoolai.storage.database import Membership

log = logging.getLogger(__name__)
Engine = ChatEngine | SpeechEngine | ImageEngine
_SLASHES = re.compile("//+")
#: Thresholds of the garbage collector. A request makes hundreds of objects but no reference cycles, so Python's default
#: of 700 would find nothing, and one full collection with 2,000 open streams blocks the event loop for 0.1 s.
COLLECT_AFTER = (20_000, 20, 20)
WATCH_DATABASE_EVERY_S = 5.0


class Server:
    """ASGI app of one serving process. It also runs the background tasks and knows whether the process is ready."""

    def __init__(self, services: Services, *, engines_first: bool = False) -> None:
        self._services = services
        self._engines_first = engines_first
        self._registration: Membership | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._why_not_ready: str | None = "starting"
        images, keys = services.images, services.keys
        heard = services.transcription
        hot = hot_paths(services.chats, services.responses, services.speech, heard.service, heard.forms, keys)
        self._hot = hot | image_paths(images, keys, services.settings, services.site.request_failures, heard.uploads)
        self._other: Any = other_paths(
            key_verifier=services.keys,
            reports=services.reports,
            failures=services.site.request_failures,
            why_not_ready=self.why_not_ready,
            image_service=images.service,
            image_delivery=images.delivery,
            responses=services.responses,
            webhook_log=WebhookLog(services.database, services.images.webhook_secrets),
            browser_page=page_for_browser(services.site),
        )
        self._portal: Any = portal(services.site, describe())
        self._idempotent = Idempotent(services.idempotency, services.keys)
        self._watchdog = Watchdog(self.route_template)
        page = MetricsPage(services.metric_sources(), self.why_not_ready, self._watchdog.longest_s)
        self._metrics = MetricsPort(services.settings, page.render, self.why_not_ready)
        self._count = services.chats.charging.meters.request

    def why_not_ready(self) -> str | None:
        """Return why requests cannot be served now, or None if they can."""
        if self._services.in_flight.draining:
            return "stopping"
        if self._why_not_ready is None and self._registration is not None:
            return self._registration.why_not_ready()
        return self._why_not_ready or self._services.database.why_gone()

    async def _watch_database(self) -> None:
        """Log an error when the file of the database is replaced or deleted, and when it is back."""
        before: str | None = None
        while True:
            gone = self._services.database.why_gone()
            if gone is not None and gone != before:
                log.error("not ready, and refusing requests: %s", gone)
            elif gone is None and before is not None:
                log.warning("the file of the database is back; ready again")
            before = gone
            await asyncio.sleep(WATCH_DATABASE_EVERY_S)

    def route_template(self, scope: Scope) -> str | None:
        """Return the route of a request that was served, such as `/v1/models/{name}`; None if no route matched."""
        path: str = scope["path"]
        return path.rstrip("/") if path in self._hot else scope.get("path_template")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI request, or run the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        headers = sort_headers(scope)
        scope[REQUEST_CONTEXT] = context = RequestContext(send, headers.get(b"x-request-id", b""))
        current_request.set(context)
        context.add_request_id()
        if b"connection" in headers or scope["http_version"] == "1.0":
            linger_at_close(send)
        if scope["http_version"] == "1.0":
            send = http10_body(send)
        try:
            handler = self._handler(scope, headers, context)
            if IDEMPOTENCY_KEY in headers and scope["method"] == "POST" and handler is not self._portal:
                name = headers[IDEMPOTENCY_KEY].decode("latin-1")
                await self._idempotent(handler, name, scope, receive, send)
                return
            await handler(scope, receive, send)
        except Exception as bug:
            if context.is_response_started():
                raise
            log.exception("request %s failed", context.request_id())
            await respond_error(send, internal_error(bug), [], scope["path"])
        finally:
            # The context refers to uvicorn's side of the request, which refers to the scope. Break that cycle here, so
            # that no garbage collection is needed.
            del scope[REQUEST_CONTEXT]

    def _handler(self, scope: Scope, headers: dict[bytes, bytes], context: RequestContext) -> App:
        """Count the request and return its handler: hot paths from a dictionary, then the portal, then the API."""
        path = scope.get("path", "")
        handler: App | None = self._hot.get(path)
        if handler is None and "//" in path:
            # The client's base URL ends in a slash.
            path = scope["path"] = _SLASHES.sub("/", path)
            handler = self._hot.get(path)
        if (b"origin" in headers or scope["method"] == "OPTIONS") and path.startswith(("/v1/", "/api/")):
            if is_preflight(scope):
                return preflight
            allow_origin(scope, context)
        if handler is not None:
            self._count(path)
            return handler
        if is_portal_path(path):
            self._count("portal")
            return self._portal  # type: ignore[no-any-return]
        self._count("other")
        return self._other  # type: ignore[no-any-return]

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._running())
            except (SettingsError, StoreError) as error:
                # What an operator can mend, in a sentence.
                log.error("startup failed: %s", error)
                await send({"type": "lifespan.startup.failed", "message": ""})
                return
            except Exception as error:
                log.exception("startup failed")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        """Start everything, and on exit stop it in reverse order. Responses end before what they depend on stops."""
        services = self._services
        self._register_process()
        await self._metrics.open()
        services.writer.start()
        await UPLOADS.run(services.transcription.uploads.delete_abandoned)
        if not services.database.is_shared:
            # No other process can own holds or jobs of this file, so recover all of them now.
            await services.auditor.recover(force=True)
            await services.images.worker.recover(include_unexpired=True)
            await services.responses.recover(include_unexpired=True)
        self._tasks = [
            asyncio.create_task(services.in_flight.run_ticker()),
            asyncio.create_task(services.auditor.run()),
            asyncio.create_task(services.sweeper.run()),
            asyncio.create_task(services.bodies.run()),
            asyncio.create_task(services.archive_keeper.run()),
            asyncio.create_task(services.plan_keeper.run()),
            asyncio.create_task(services.images.worker.run()),
            asyncio.create_task(services.follower.run()),
            asyncio.create_task(services.responses.run()),
            asyncio.create_task(services.images.sweeper.run()),
            asyncio.create_task(services.images.webhooks.run()),
            asyncio.create_task(services.site.run()),
            asyncio.create_task(self._watch_database()),
            asyncio.create_task(self._watchdog.run()),
            asyncio.create_task(RevocationWatch(services.database, services.in_flight).run()),
        ]
        if (policy := services.keys.policy) is not None and policy.shared_buckets is not None:
            self._tasks.append(asyncio.create_task(policy.shared_buckets.run()))
        if self._engines_first:
            await self._start_engines()
            self._tasks.append(asyncio.create_task(self._follow_fetches()))
        else:
            self._tasks.append(asyncio.create_task(self._start_and_follow()))
        # What exists now lives as long as the process, so exclude it from all later collections.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        try:
            yield
        finally:
            await asyncio.gather(
                services.in_flight.drain(2.0), services.images.worker.drain(2.0), services.responses.drain(2.0)
            )
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(engine.stop() for engine in services.engines.values()))
            await asyncio.gather(*(engine.stop() for engine in services.speech_engines.values()))
            await asyncio.gather(*(engine.stop() for engine in services.transcription.service.engines.values()))
            await services.transcription.meter.stop()
            services.transcription.uploads.close()
            await asyncio.gather(*(engine.stop() for engine in services.images.engines.values()))
            await self._metrics.close()
            await services.site.close()
            await services.http.close()
            await services.bodies.flush()
            await CONTROL.run(services.writer.stop)
            if services.tracing is not None:
                await CONTROL.run(services.tracing.close)
            if self._registration is not None:
                await CONTROL.run(self._registration.stop)
            services.chats.routes.fallbacks.flush()
            services.chats.routes.rate_limits.flush()
            services.shared.stand_ins.unavailable.flush()
            services.chats.charging.refusals.flush()
            services.database.close()
            close_pools()

    def _register_process(self) -> None:
        """Register at a shared database, for a process number and for notifications (publish/subscribe).

        Identifiers contain the number, so no two processes make the same one.
        """
        loop = asyncio.get_running_loop()

        def on_notify(channel: str | None, payload: str | None) -> None:
            loop.call_soon_threadsafe(self._on_notify, channel, payload)

        self._registration = self._services.database.membership((KEYS_CHANNEL, JOBS_CHANNEL), on_notify)
        if self._registration is not None:
            self._services.clock.process_number = self._registration.start()
            self._services.images.worker.membership = self._registration

    def _on_notify(self, channel: str | None, payload: str | None) -> None:
        """Handle a notification. No channel: the connection was new, so notifications may have been missed."""
        if channel is None and self._registration is not None:
            self._services.clock.process_number = self._registration.number
            self._services.images.worker.registered_anew()
        if channel in (None, JOBS_CHANNEL):
            self._services.images.worker.events.notify_queued()
            self._services.responses.notify()
        if channel in (None, KEYS_CHANNEL):
            self._services.keys.invalidate(payload)

    async def _start_engines(self) -> None:
        """Start the engines that a model of the catalog uses now; others would only take memory.

        If one fails to start, the engines that replace it for its models are started, too.
        """
        started: set[str] = set()
        while used := {name: engine for name, engine in self._used_engines().items() if name not in started}:
            started |= used.keys()
            await asyncio.gather(*(_start(engine) for engine in used.values()))
        self._why_not_ready = None

    async def _start_and_follow(self) -> None:
        await self._start_engines()
        await self._follow_fetches()

    async def _follow_fetches(self) -> None:
        """Start models that are fetched while the server runs."""
        engines = [engine for engine in self._services.engines.values() if isinstance(engine, LlamaEngine)]
        await asyncio.gather(*(engine.start_when_fetched() for engine in engines))

    def _used_engines(self) -> dict[str, Engine]:
        """Return the engines in use. Image engines that start on demand are left out."""
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
            if drawer is not None and drawer.name not in self._services.images.worker.state.start_on_demand:
                used[f"images {drawer.name}"] = drawer
        return used


async def _start(engine: Engine) -> None:
    try:
        await engine.start()
    except (EngineError, OSError) as error:
        log.error("engine %s failed to start: %s", engine.name, error)


def serve(services: Services, *, ready: Callable[[int], None], listening: socket.socket | None = None) -> None:
    """Serve until a signal; `ready(port)` is called once, as soon as requests are accepted.

    `listening`: a socket that other processes also accept from; engines then start before the first request.
    Raise SettingsError if another server uses the same data folder.
    """
    settings, worker = services.settings, services.images.worker

    async def drain(within_s: float) -> None:
        await asyncio.gather(
            services.in_flight.drain(within_s), worker.drain(within_s), services.responses.drain(within_s)
        )

    def on_listening(port: int) -> None:
        services.images.address.listening_on(port)
        ready(port)

    catalog = services.catalog_reload

    def on_hangup() -> None:
        try:
            log.info("catalog read again: %s", catalog.reload())
        except (CatalogError, SettingsError) as error:
            log.error("the catalog was not read again, the previous one stays in use: %s", error)

    with contextlib.ExitStack() as locks:
        if not services.database.is_shared:
            locks.enter_context(exclusive_data_dir(settings.data_dir))
            locks.enter_context(exclusive_database(Path(services.database.where)))
        server = Server(services, engines_first=listening is not None)
        app = server if services.tracing is None else services.tracing.middleware(server, server.route_template)
        run_server(
            app,
            settings,
            drain=drain,
            on_listening=on_listening,
            # Several processes have a supervisor, which replaces them.
            on_hangup=on_hangup if settings.workers == 1 else None,
            listening=listening,
        )
