"""/metrics: what every process says of itself. Everything is counted elsewhere; here it is only put into words."""

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
    """One line of the reference: counter, gauge or histogram, its meaning, its labels."""

    kind: type[Family]
    about: str
    labels: tuple[str, ...] = ()


_COUNTER, _GAUGE, _HISTOGRAM = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
#: Every metric of ours. Those marked (database) say the same in every process: take the largest, not the sum.
METRICS: Final[Mapping[str, Metric]] = {
    "minitoolai_info": Metric(_GAUGE, "Always 1; the labels say what runs.", ("version", "database")),
    "minitoolai_ready": Metric(_GAUGE, "1 while requests are served."),
    "minitoolai_requests_total": Metric(_COUNTER, "Requests that came in.", ("path",)),
    "minitoolai_errors_total": Metric(_COUNTER, "Errors answered with.", ("status", "code")),
    "minitoolai_answers_total": Metric(_COUNTER, "Paid work that ended.", ("kind", "model", "state", "error")),
    "minitoolai_units_total": Metric(_COUNTER, "Tokens, characters or pictures of it.", ("kind", "model", "direction")),
    "minitoolai_charged_dollars_total": Metric(_COUNTER, "What was asked for it.", ("kind", "model")),
    "minitoolai_first_token_seconds": Metric(_HISTOGRAM, "From the request to its first token or sound.", ("kind",)),
    "minitoolai_answer_seconds": Metric(_HISTOGRAM, "From the hold to the end: a stream's duration.", ("kind",)),
    "minitoolai_answers_underway": Metric(_GAUGE, "Answers under way in this process."),
    "minitoolai_pictures_underway": Metric(_GAUGE, "Pictures this process is drawing."),
    "minitoolai_writer_commits_total": Metric(_COUNTER, "Transactions of the writer."),
    "minitoolai_writer_operations": Metric(_HISTOGRAM, "Operations that shared one commit."),
    "minitoolai_writer_commit_seconds": Metric(_HISTOGRAM, "From BEGIN to a durable COMMIT."),
    "minitoolai_writer_waiting": Metric(_GAUGE, "Operations that wait for their commit."),
    "minitoolai_writer_put_off": Metric(_GAUGE, "Charges that wait for a sick database."),
    "minitoolai_writer_replays_total": Metric(_COUNTER, "Batches rolled back and replayed one by one."),
    "minitoolai_writer_failures_total": Metric(_COUNTER, "Writes that the database refused or was away for."),
    "minitoolai_shortfall_dollars_total": Metric(_COUNTER, "Work beyond its hold: the house paid."),
    "minitoolai_engine_failures_total": Metric(_COUNTER, "Attempts at an engine that failed.", ("engine", "code")),
    "minitoolai_engine_ready": Metric(_GAUGE, "1 where an engine is configured and its files are there.", ("engine",)),
    "minitoolai_engine_resting": Metric(_GAUGE, "1 while an upstream rests after failures.", ("engine",)),
    "minitoolai_books_broken": Metric(_GAUGE, "Invariants of the books that do not hold. Anything but 0 is an alarm."),
    "minitoolai_books_checked_seconds": Metric(_GAUGE, "Seconds since the books were last checked; -1: not yet."),
    "minitoolai_database_up": Metric(_GAUGE, "1 where the database answered this very question."),
    "minitoolai_holds_pending": Metric(_GAUGE, "Holds not settled yet (database).", ("kind",)),
    "minitoolai_held_dollars": Metric(_GAUGE, "What they hold together (database)."),
    "minitoolai_jobs_queued": Metric(_GAUGE, "Image jobs that wait (database).", ("model",)),
    "minitoolai_jobs_oldest_seconds": Metric(_GAUGE, "How long the first of them has waited (database)."),
    "minitoolai_jobs_drawing": Metric(_GAUGE, "Image jobs being drawn anywhere (database)."),
    "minitoolai_webhooks_pending": Metric(_GAUGE, "Webhooks not delivered yet (database)."),
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
    """Render the metrics on request. `text` may wait for the database, never for the writer."""

    def __init__(self, sources: MetricSources, why_not_ready: Callable[[], str | None]) -> None:
        self._sources = sources
        self._why_not_ready = why_not_ready

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics for who asks for it, else Prometheus' own text."""
        shared = self._sources.shared
        stands: LiveGauges | None = None
        try:
            stands = await shared.database.read_async(read_gauges, shared.clock.now_ms())
        except (StoreError, ServiceError) as error:
            log.warning("the metrics of the database are missing: %s", error)
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(_Once(self._families(stands)))
        encode, kind = choose_encoder(accept)
        return encode(registry), kind

    def _families(self, stands: LiveGauges | None) -> list[Family]:
        made = _Families()
        made.add("minitoolai_info", 1, __version__, self._sources.shared.database.name)
        made.add("minitoolai_ready", 1 if self._why_not_ready() is None else 0)
        made.add("minitoolai_database_up", 0 if stands is None else 1)
        self._answers(made)
        self._writer(made)
        self._engines(made)
        self._books(made)
        if stands is not None:
            _standing(made, stands)
        return made.families

    def _answers(self, made: _Families) -> None:
        sources, meters = self._sources, self._sources.shared.charging.meters
        paths: dict[str, int] = {}
        for path, count in meters.requests.items():
            name = path.rstrip("/")
            paths[name] = paths.get(name, 0) + count
        for path, count in paths.items():
            made.add("minitoolai_requests_total", count, path)
        for (status, code), count in error_counts.items():
            made.add("minitoolai_errors_total", count, str(status), code)
        units: dict[tuple[str, str, str], int] = {}
        dollars: dict[tuple[str, str], int] = {}
        for (kind, model, state, error), tally in meters.outcomes.items():
            made.add("minitoolai_answers_total", tally.count, kind, model, state, error)
            for direction in ("input", "output", "cached"):
                key = (kind, model, direction)
                units[key] = units.get(key, 0) + getattr(tally, direction)
            dollars[kind, model] = dollars.get((kind, model), 0) + tally.cost
        for labels, count in units.items():
            made.add("minitoolai_units_total", count, *labels)
        for labels2, nano in dollars.items():
            made.add("minitoolai_charged_dollars_total", nano * NANO, *labels2)
        for kind in meters.duration:
            made.histogram("minitoolai_first_token_seconds", meters.first_token[kind], MS, kind)
            made.histogram("minitoolai_answer_seconds", meters.duration[kind], MS, kind)
        made.add("minitoolai_answers_underway", sources.shared.in_flight.count())
        made.add("minitoolai_pictures_underway", len(sources.images.worker.runs))

    def _writer(self, made: _Families) -> None:
        writer = self._sources.shared.writer
        counts, (queued, deferred) = writer.counts, writer.backlog()
        made.add("minitoolai_writer_commits_total", counts.commits)
        made.add("minitoolai_writer_replays_total", counts.replays)
        made.add("minitoolai_writer_failures_total", counts.failures)
        made.add("minitoolai_shortfall_dollars_total", counts.shortfall * NANO)
        made.add("minitoolai_writer_waiting", queued)
        made.add("minitoolai_writer_put_off", deferred)
        made.histogram("minitoolai_writer_operations", counts.sizes, 1)
        made.histogram("minitoolai_writer_commit_seconds", counts.took, US)

    def _engines(self, made: _Families) -> None:
        sources = self._sources
        for (engine, code), count in sources.shared.charging.meters.failures.items():
            made.add("minitoolai_engine_failures_total", count, engine, code)
        ready = {name: engine.why_not_ready() is None for name, engine in sources.engines.items()}
        for name, voice in sources.speech_engines.items():
            ready[name] = voice.why_not_ready() is None or ready.get(name, False)
        worker = sources.images.worker
        for name, painter in sources.images.engines.items():
            ready[name] = bool(worker.models_of(painter)) or ready.get(name, False)
        for name, is_ready in ready.items():
            made.add("minitoolai_engine_ready", int(is_ready), name)
        for name in sources.engines:
            made.add("minitoolai_engine_resting", int(not sources.router.breaker(name).is_closed), name)

    def _books(self, made: _Families) -> None:
        auditor, now_s = self._sources.auditor, self._sources.shared.clock.steady_s()
        made.add("minitoolai_books_broken", len(auditor.broken))
        checked_s = -1.0 if auditor.checked_s is None else now_s - auditor.checked_s
        made.add("minitoolai_books_checked_seconds", checked_s)


def _standing(made: _Families, stands: LiveGauges) -> None:
    for kind in ("chat", "image", "speech"):
        made.add("minitoolai_holds_pending", stands.holds.get(kind, 0), kind)
    made.add("minitoolai_held_dollars", stands.held * NANO)
    for model, count in stands.queued.items():
        made.add("minitoolai_jobs_queued", count, model)
    made.add("minitoolai_jobs_oldest_seconds", stands.oldest_ms * MS)
    made.add("minitoolai_jobs_drawing", stands.drawing)
    made.add("minitoolai_webhooks_pending", stands.webhooks)


class _Families:
    """All metrics, each to be filled; one that stays empty still says that it exists."""

    def __init__(self) -> None:
        self._made = {name: metric.kind(name, metric.about, labels=metric.labels) for name, metric in METRICS.items()}

    @property
    def families(self) -> list[Family]:
        return list(self._made.values())

    def add(self, name: str, value: float, *labels: str) -> None:
        family = self._made[name]
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric(labels, value)

    def histogram(self, name: str, counted: Histogram, unit: float, *labels: str) -> None:
        family = self._made[name]
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, buckets=counted.cumulative(unit), sum_value=counted.total * unit)


class _Once(Collector):
    """What prometheus_client asks for the families."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


# (merged from metrics_port) A door of its own for whoever watches: GET /metrics, and nothing else. Never on the port that customers reach.

#: The page in the form that an Accept header asks for: body and content type.
Render = Callable[[str], Awaitable[tuple[bytes, str]]]
LARGEST_HEAD = 16_384
PATIENCE_S = 10.0


def address_of(settings: Settings) -> tuple[str, int] | None:
    """Host and port, or None where nobody is to watch. SettingsError for what is none, or is open to everybody."""
    text = settings.metrics_listen
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"MINITOOLAI_METRICS_LISTEN={text!r} is wrong: write it like 127.0.0.1:9464")
    if not settings.metrics_token and not is_loopback(host):
        raise SettingsError(
            f"MINITOOLAI_METRICS_LISTEN={text!r} would tell everybody about your business: "
            "set MINITOOLAI_METRICS_TOKEN, too, or listen on 127.0.0.1"
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class MetricsPort:
    """Opened at the start of a process, closed at its end."""

    def __init__(self, settings: Settings, render: Render) -> None:
        self._address = address_of(settings)
        self._token = settings.metrics_token
        self._tries = 2 * max(1, settings.workers) + 8
        self._render = render
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listen on the first free port from the one that is set; SettingsError where none is."""
        if self._address is None:
            return
        host, first = self._address
        last = first + self._tries if first else 0
        for port in range(first, last + 1):
            try:
                self._server = await asyncio.start_server(self._answer, host, port, limit=LARGEST_HEAD)
            except OSError as error:
                if port == last:
                    raise SettingsError(
                        f"cannot listen on {host}:{first} for /metrics, nor on the {self._tries} ports behind it: "
                        f"{error.strerror or error}; choose another MINITOOLAI_METRICS_LISTEN"
                    ) from None
            else:
                self.port = self._server.sockets[0].getsockname()[1]
                log.info("metrics at http://%s:%d/metrics", f"[{host}]" if ":" in host else host, self.port)
                return

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                status, kind, body = await self._reply(head)
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + (b"" if head[0].startswith("HEAD ") else body)
                )
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            log.debug("a reader of /metrics was given up: %s", error)
        finally:
            writer.close()

    async def _reply(self, head: list[str]) -> tuple[str, str, bytes]:
        method, _, rest = head[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if path != "/metrics":
            return "404 Not Found", "text/plain", b"there is only /metrics here\n"
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain", b"use GET\n"
        sent = fields.get("authorization", "").encode("latin-1")
        if self._token and not hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
            return "401 Unauthorized", "text/plain", b"send MINITOOLAI_METRICS_TOKEN as a Bearer token\n"
        try:
            body, kind = await self._render(fields.get("accept", ""))
        except Exception:
            log.exception("the metrics could not be rendered")
            return "500 Internal Server Error", "text/plain", b"see the log\n"
        return "200 OK", kind, body
