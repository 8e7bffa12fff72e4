"""Serve `/metrics` in Prometheus' formats, on a port of its own.

Everything is counted elsewhere. This module defines the metrics, collects their values, and renders the page.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from minitoolai import __version__
from minitoolai.billing.audit import Auditor
from minitoolai.billing.shared import SharedServices
from minitoolai.chat.router import Router
from minitoolai.core.errors import ServiceError, SettingsError, StoreError
from minitoolai.core.meters import Histogram
from minitoolai.engines.protocols import ChatEngine, SpeechEngine
from minitoolai.http.errors import error_counts
from minitoolai.images.build import Images
from minitoolai.settings import Settings
from minitoolai.storage.reports import LiveGauges, read_gauges

log = logging.getLogger(__name__)

NANO: Final = 1e-9
MS: Final = 1e-3
US: Final = 1e-6
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


@dataclass(frozen=True)
class Metric:
    """Definition of one metric, as in the reference: its kind, its meaning and its labels."""

    kind: type[Family]
    about: str
    labels: tuple[str, ...] = ()


_COUNTER, _GAUGE, _HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
#: Every metric. Those marked (database) have the same value in every process: take the maximum, not the sum.
METRICS: Final[Mapping[str, Metric]] = {
    "minitoolai_info": Metric(
        _GAUGE, "Always 1; the labels are the version and the kind of database.", ("version", "database")
    ),
    "minitoolai_ready": Metric(_GAUGE, "1 while this process is ready to serve requests."),
    "minitoolai_event_loop_pause_seconds": Metric(
        _GAUGE, "Longest time in the last minute for which one piece of work held the event loop of this process."
    ),
    "minitoolai_requests_total": Metric(_COUNTER, "Requests received.", ("path",)),
    "minitoolai_errors_total": Metric(_COUNTER, "Error responses.", ("status", "code")),
    "minitoolai_answers_total": Metric(
        _COUNTER, "Finished generations (billed work).", ("kind", "model", "state", "error")
    ),
    "minitoolai_units_total": Metric(
        _COUNTER, "Tokens, characters or images of finished generations.", ("kind", "model", "direction")
    ),
    "minitoolai_charged_dollars_total": Metric(_COUNTER, "Charges for finished generations.", ("kind", "model")),
    "minitoolai_first_token_seconds": Metric(
        _HISTOGRAM, "Time from the request to the first token or audio.", ("kind",)
    ),
    "minitoolai_answer_seconds": Metric(_HISTOGRAM, "Time from the hold to the end of the generation.", ("kind",)),
    "minitoolai_answers_underway": Metric(_GAUGE, "Responses in flight in this process."),
    "minitoolai_pictures_underway": Metric(_GAUGE, "Image jobs running in this process."),
    "minitoolai_writer_commits_total": Metric(_COUNTER, "Transactions committed by the writer."),
    "minitoolai_writer_operations": Metric(_HISTOGRAM, "Operations per commit (group commit)."),
    "minitoolai_writer_commit_seconds": Metric(_HISTOGRAM, "Time from BEGIN to a durable COMMIT."),
    "minitoolai_writer_waiting": Metric(_GAUGE, "Operations waiting for their commit."),
    "minitoolai_writer_put_off": Metric(_GAUGE, "Charges postponed because the database fails."),
    "minitoolai_writer_replays_total": Metric(
        _COUNTER, "Batches that were rolled back and replayed one operation at a time."
    ),
    "minitoolai_writer_failures_total": Metric(
        _COUNTER, "Writes that failed because the database refused them or was unreachable."
    ),
    "minitoolai_shortfall_dollars_total": Metric(_COUNTER, "Cost beyond the hold, paid by the operator."),
    "minitoolai_engine_shortfall_dollars_total": Metric(_COUNTER, "Cost beyond the hold, by engine.", ("engine",)),
    "minitoolai_usage_disbelieved_total": Metric(
        _COUNTER, "Usages reported by an engine that were replaced by our own count.", ("engine", "why")
    ),
    "minitoolai_engine_failures_total": Metric(_COUNTER, "Failed attempts at an engine.", ("engine", "code")),
    "minitoolai_engine_ready": Metric(_GAUGE, "1 if the engine is configured and its files exist.", ("engine",)),
    "minitoolai_engine_resting": Metric(
        _GAUGE, "1 while an upstream's circuit breaker is open after failures.", ("engine",)
    ),
    "minitoolai_books_broken": Metric(_GAUGE, "Violated ledger invariants. Anything but 0 is an alarm."),
    "minitoolai_books_checked_seconds": Metric(
        _GAUGE, "Seconds since the last check of the ledger; -1 before the first."
    ),
    "minitoolai_database_up": Metric(_GAUGE, "1 if the database responded to this scrape."),
    "minitoolai_holds_pending": Metric(_GAUGE, "Holds that are not settled yet (database).", ("kind",)),
    "minitoolai_held_dollars": Metric(_GAUGE, "Total amount of pending holds (database)."),
    "minitoolai_jobs_queued": Metric(_GAUGE, "Queued image jobs (database).", ("model",)),
    "minitoolai_jobs_oldest_seconds": Metric(_GAUGE, "Waiting time of the oldest queued image job (database)."),
    "minitoolai_jobs_drawing": Metric(_GAUGE, "Image jobs running in any process (database)."),
    "minitoolai_webhooks_pending": Metric(_GAUGE, "Webhooks that are not delivered yet (database)."),
}


@dataclass(frozen=True)
class MetricSources:
    """The services that the metrics are read from."""

    shared: SharedServices
    engines: Mapping[str, ChatEngine]
    speech_engines: Mapping[str, SpeechEngine]
    router: Router
    images: Images
    auditor: Auditor


class MetricsPage:
    """Render the metrics page."""

    def __init__(
        self, sources: MetricSources, why_not_ready: Callable[[], str | None], longest_pause_s: Callable[[], float]
    ) -> None:
        self._sources = sources
        self._why_not_ready = why_not_ready
        self._longest_pause_s = longest_pause_s

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type: OpenMetrics if the Accept header asks for it, else Prometheus' text.

        This may wait for the database, but never for the writer.
        """
        shared = self._sources.shared
        gauges: LiveGauges | None = None
        try:
            gauges = await shared.database.read_async(read_gauges, shared.clock.now_ms())
        except (StoreError, ServiceError) as error:
            log.warning("cannot read the gauges from the database, leaving them out of /metrics: %s", error)
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(_StaticCollector(self._families(gauges)))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def _families(self, gauges: LiveGauges | None) -> list[Family]:
        families = _Families()
        families.add("minitoolai_info", 1, __version__, self._sources.shared.database.name)
        families.add("minitoolai_ready", 1 if self._why_not_ready() is None else 0)
        families.add("minitoolai_event_loop_pause_seconds", self._longest_pause_s())
        families.add("minitoolai_database_up", 0 if gauges is None else 1)
        self._add_generations(families)
        self._add_writer(families)
        self._add_engines(families)
        self._add_ledger(families)
        if gauges is not None:
            _add_gauges(families, gauges)
        return list(families.by_name.values())

    def _add_generations(self, families: _Families) -> None:
        sources, meters = self._sources, self._sources.shared.charging.meters
        paths: dict[str, int] = {}
        for path, count in meters.requests.items():
            name = path.rstrip("/")
            paths[name] = paths.get(name, 0) + count
        for path, count in paths.items():
            families.add("minitoolai_requests_total", count, path)
        for (status, code), count in error_counts.items():
            families.add("minitoolai_errors_total", count, str(status), code)
        units: dict[tuple[str, str, str], int] = {}
        dollars: dict[tuple[str, str], int] = {}
        for (kind, model, state, error), tally in meters.outcomes.items():
            families.add("minitoolai_answers_total", tally.count, kind, model, state, error)
            for direction in ("input", "output", "cached"):
                key = (kind, model, direction)
                units[key] = units.get(key, 0) + getattr(tally, direction)
            dollars[kind, model] = dollars.get((kind, model), 0) + tally.cost
        for labels, count in units.items():
            families.add("minitoolai_units_total", count, *labels)
        for labels2, nano in dollars.items():
            families.add("minitoolai_charged_dollars_total", nano * NANO, *labels2)
        for kind in meters.duration:
            families.add_histogram("minitoolai_first_token_seconds", meters.first_token[kind], MS, kind)
            families.add_histogram("minitoolai_answer_seconds", meters.duration[kind], MS, kind)
        families.add("minitoolai_answers_underway", sources.shared.in_flight.count())
        families.add("minitoolai_pictures_underway", len(sources.images.worker.state.attempts))

    def _add_writer(self, families: _Families) -> None:
        writer = self._sources.shared.writer
        counts, (queued, deferred) = writer.counts, writer.backlog()
        families.add("minitoolai_writer_commits_total", counts.commits)
        families.add("minitoolai_writer_replays_total", counts.replays)
        families.add("minitoolai_writer_failures_total", counts.failures)
        families.add("minitoolai_shortfall_dollars_total", counts.shortfall * NANO)
        families.add("minitoolai_writer_waiting", queued)
        families.add("minitoolai_writer_put_off", deferred)
        families.add_histogram("minitoolai_writer_operations", counts.sizes, 1)
        families.add_histogram("minitoolai_writer_commit_seconds", counts.took, US)

    def _add_engines(self, families: _Families) -> None:
        sources = self._sources
        for (engine, code), count in sources.shared.charging.meters.failures.items():
            families.add("minitoolai_engine_failures_total", count, engine, code)
        for (engine, why), count in sources.shared.charging.meters.doubts.items():
            families.add("minitoolai_usage_disbelieved_total", count, engine, why)
        for engine, nano in sources.shared.charging.meters.shortfalls.items():
            families.add("minitoolai_engine_shortfall_dollars_total", nano * NANO, engine)
        ready = {name: engine.why_not_ready() is None for name, engine in sources.engines.items()}
        for name, voice in sources.speech_engines.items():
            ready[name] = voice.why_not_ready() is None or ready.get(name, False)
        worker = sources.images.worker
        for name, painter in sources.images.engines.items():
            ready[name] = bool(worker.models_of(painter)) or ready.get(name, False)
        for name, is_ready in ready.items():
            families.add("minitoolai_engine_ready", int(is_ready), name)
        for name in sources.engines:
            families.add("minitoolai_engine_resting", int(not sources.router.breakers[name].is_closed), name)

    def _add_ledger(self, families: _Families) -> None:
        auditor, now_s = self._sources.auditor, self._sources.shared.clock.steady_s()
        families.add("minitoolai_books_broken", len(auditor.broken))
        checked_s = -1.0 if auditor.checked_s is None else now_s - auditor.checked_s
        families.add("minitoolai_books_checked_seconds", checked_s)


def _add_gauges(families: _Families, gauges: LiveGauges) -> None:
    for kind in ("chat", "image", "speech"):
        families.add("minitoolai_holds_pending", gauges.holds.get(kind, 0), kind)
    families.add("minitoolai_held_dollars", gauges.held * NANO)
    for model, count in gauges.queued.items():
        families.add("minitoolai_jobs_queued", count, model)
    families.add("minitoolai_jobs_oldest_seconds", gauges.oldest_ms * MS)
    families.add("minitoolai_jobs_drawing", gauges.drawing)
    families.add("minitoolai_webhooks_pending", gauges.webhooks)


class _Families:
    """All metrics, to be filled with samples. A metric without samples is on the page with its type and help."""

    def __init__(self) -> None:
        self.by_name = {name: metric.kind(name, metric.about, labels=metric.labels) for name, metric in METRICS.items()}

    def add(self, name: str, value: float, *labels: str) -> None:
        family = self.by_name[name]
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric(labels, value)

    def add_histogram(self, name: str, counted: Histogram, unit: float, *labels: str) -> None:
        family = self.by_name[name]
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, buckets=counted.cumulative(unit), sum_value=counted.total * unit)


class _StaticCollector(Collector):
    """Hand ready-made families to prometheus_client."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


# ── the port ──────────────────────────────────────────────────────────────────────────────────────────────

#: Renders the page for an Accept header; returns body and content type.
Render = Callable[[str], Awaitable[tuple[bytes, str]]]
MAX_HEAD = 16_384
REQUEST_TIMEOUT_S = 10.0


def metrics_address(settings: Settings) -> tuple[str, int] | None:
    """Return host and port, or None if metrics are off.

    Raise SettingsError if the setting is invalid, or would show the metrics to other machines without a token.
    """
    text = settings.metrics_listen
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"MINITOOLAI_METRICS_LISTEN={text!r} is invalid: write it like 127.0.0.1:9464")
    if not settings.metrics_token and not is_loopback(host):
        raise SettingsError(
            f"MINITOOLAI_METRICS_LISTEN={text!r} would show your metrics to everyone who can reach this "
            "machine: set MINITOOLAI_METRICS_TOKEN too, or listen on 127.0.0.1"
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class MetricsPort:
    """A small HTTP server for GET /metrics only, so that customers cannot reach the metrics on the port of the API."""

    def __init__(self, settings: Settings, render: Render) -> None:
        self._address = metrics_address(settings)
        self._token = settings.metrics_token
        self._more_ports = 2 * max(1, settings.workers) + 8
        self._render = render
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listen on the configured port or the next free one. Raise SettingsError if none is free.

        Several processes on one machine have the same setting, so each takes the next free port.
        """
        if self._address is None:
            return
        host, first = self._address
        last = first + self._more_ports if first else 0
        for port in range(first, last + 1):
            try:
                self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD)
            except OSError as error:
                if port == last:
                    raise SettingsError(
                        f"cannot listen on {host}:{first} for /metrics, nor on the next {self._more_ports} ports: "
                        f"{error.strerror or error}; choose another MINITOOLAI_METRICS_LISTEN"
                    ) from None
            else:
                self.port = self._server.sockets[0].getsockname()[1]
                log.info("metrics at http://%s:%d/metrics", f"[{host}]" if ":" in host else host, self.port)
                return

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                status, content_type, body = await self._respond(head)
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + (b"" if head[0].startswith("HEAD ") else body)
                )
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            log.debug("dropped a request to the metrics port: %s", error)
        finally:
            writer.close()

    async def _respond(self, head: list[str]) -> tuple[str, str, bytes]:
        method, _, rest = head[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if path != "/metrics":
            return "404 Not Found", "text/plain", b"the only path here is /metrics\n"
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain", b"use GET\n"
        sent = fields.get("authorization", "").encode("latin-1")
        if self._token and not hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
            return "401 Unauthorized", "text/plain", b"send MINITOOLAI_METRICS_TOKEN as a Bearer token\n"
        try:
            body, content_type = await self._render(fields.get("accept", ""))
        except Exception:
            log.exception("rendering the metrics failed")
            return "500 Internal Server Error", "text/plain", b"see the log\n"
        return "200 OK", content_type, body
