"""Render `/metrics` in Prometheus' formats.

Everything is counted elsewhere. This module defines the metrics, collects their values, and renders the page.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from minitoolai import __version__
from minitoolai.billing.audit import Auditor
from minitoolai.billing.shared import SharedServices
from minitoolai.chat.router import Router
from minitoolai.core.catalog.catalog import Catalog, ChatModel, EmbeddingModel, ImageModel, SpeechModel
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.core.telemetry.meters import EngineResult, Histogram
from minitoolai.core.threads import FILES
from minitoolai.engines.placement import PlacedEngine
from minitoolai.engines.protocols import ChatEngine, SpeechEngine
from minitoolai.engines.servers import PlacedServer
from minitoolai.engines.supervision import running_children
from minitoolai.engines.transcription.protocols import TranscriptionEngine
from minitoolai.http.errors import error_counts
from minitoolai.images.build import Images
from minitoolai.storage.tables.reports import LiveGauges, read_gauges

log = logging.getLogger(__name__)

NANO: Final = 1e-9
MS: Final = 1e-3
US: Final = 1e-6
Model = ChatModel | EmbeddingModel | SpeechModel | ImageModel | TranscriptionModel
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
        _GAUGE, "Longest time in the last minute for which one piece of work blocked the event loop of this process."
    ),
    "minitoolai_requests_total": Metric(_COUNTER, "Requests received.", ("path",)),
    "minitoolai_errors_total": Metric(_COUNTER, "Error responses.", ("status", "code")),
    "minitoolai_answers_total": Metric(
        _COUNTER, "Finished generations (billed work).", ("kind", "model", "state", "error")
    ),
    "minitoolai_engine_requests_total": Metric(
        _COUNTER,
        "Requests by the engine that served them last. Result: succeeded, cancelled, failed, invalid (the engine"
        " rejected the request itself) or refused (before it began: the engine's circuit is open, the engine"
        " is full, or the server cannot take it).",
        ("engine", "model", "result"),
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
        _GAUGE,
        "1 while an upstream's circuit breaker refuses the requests of all accounts after failures.",
        ("engine",),
    ),
    "minitoolai_child_memory_bytes": Metric(_GAUGE, "Resident memory of the engine's child processes.", ("engine",)),
    "minitoolai_child_restarts_total": Metric(
        _COUNTER, "Child processes of the engine that exited and were restarted.", ("engine",)
    ),
    "minitoolai_placed_engines": Metric(
        _GAUGE, "Copies and servers of an engine on Ray: wanted and running.", ("engine", "state")
    ),
    "minitoolai_placed_capacity": Metric(
        _GAUGE, "Images that the running copies of an engine on Ray take at once.", ("engine",)
    ),
    "minitoolai_books_broken": Metric(_GAUGE, "Violated ledger invariants. Anything but 0 is an alarm."),
    "minitoolai_books_checked_seconds": Metric(
        _GAUGE, "Seconds since the last check of the ledger; -1 before the first."
    ),
    "minitoolai_database_up": Metric(_GAUGE, "1 if the database responded to this scrape."),
    "minitoolai_database_replaced": Metric(
        _GAUGE, "1 while another file, or none, is in the place of the database that this process opened."
    ),
    "minitoolai_disk_free_bytes": Metric(
        _GAUGE, "Free space where the data folder and the SQLite database are.", ("folder",)
    ),
    "minitoolai_disk_size_bytes": Metric(_GAUGE, "Size of those file systems.", ("folder",)),
    "minitoolai_store_failures_total": Metric(_COUNTER, "Failed operations on the object store.", ("operation",)),
    "minitoolai_store_oldest_seconds": Metric(
        _GAUGE, "Duration of the longest operation that waits for the object store now."
    ),
    "minitoolai_holds_oldest_seconds": Metric(
        _GAUGE, "Age of the oldest pending hold of a chat, speech or transcription (database).", ("kind",)
    ),
    "minitoolai_workers": Metric(_GAUGE, "Processes that run image jobs; 0 on SQLite (database)."),
    "minitoolai_clock_offset_seconds": Metric(
        _GAUGE, "This machine's clock minus the database server's; no sample on SQLite."
    ),
    "minitoolai_images_unstored": Metric(_GAUGE, "Images of this process that wait for the object store."),
    "minitoolai_workers_lost": Metric(
        _GAUGE, "Processes that stopped reporting in the last half hour without unregistering (database)."
    ),
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
    transcription_engines: Mapping[str, TranscriptionEngine]
    router: Router
    images: Images
    auditor: Auditor
    data_dir: Path
    #: The servers that this worker has placed on a cluster.
    placed_servers: Sequence[PlacedServer]


class MetricsPage:
    """Render the metrics page."""

    def __init__(
        self, sources: MetricSources, why_not_ready: Callable[[], str | None], longest_pause_s: Callable[[], float]
    ) -> None:
        self._sources = sources
        self._why_not_ready = why_not_ready
        self._longest_pause_s = longest_pause_s
        database = sources.shared.database
        self._folders = {"data": sources.data_dir}
        if not database.is_shared:
            self._folders["database"] = Path(database.where).parent

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type: OpenMetrics if the Accept header asks for it, else Prometheus' text.

        This may wait for the database, but never for the writer.
        """
        shared = self._sources.shared
        gauges: LiveGauges | None = None
        try:
            gauges = await shared.database.read_async(read_gauges, shared.clock.now_ms(), shared.clock.lease_ms())
        except (StoreError, ServiceError) as error:
            log.warning("cannot read the gauges from the database, leaving them out of /metrics: %s", error)
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        disks = await FILES.run(read_disks, self._folders)
        registry.register(_StaticCollector(self._families(gauges, disks)))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def _families(self, gauges: LiveGauges | None, disks: Mapping[str, Disk]) -> list[Family]:
        families = _Families()
        families.add("minitoolai_info", 1, __version__, self._sources.shared.database.name)
        families.add("minitoolai_ready", 1 if self._why_not_ready() is None else 0)
        families.add("minitoolai_event_loop_pause_seconds", self._longest_pause_s())
        database = self._sources.shared.database
        families.add("minitoolai_database_up", 0 if gauges is None else 1)
        families.add("minitoolai_database_replaced", 0 if database.why_gone() is None else 1)
        for folder, disk in disks.items():
            families.add("minitoolai_disk_free_bytes", disk.free, folder)
            families.add("minitoolai_disk_size_bytes", disk.size, folder)
        self._add_generations(families)
        self._add_writer(families)
        self._add_engines(families)
        self._add_placed(families)
        self._add_ledger(families)
        self._add_store(families)
        if gauges is not None:
            _add_gauges(families, gauges, self._sources.shared.catalog)
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
        results = _all_engine_results(sources.shared.catalog) | meters.engine_results
        for (engine, model, result), count in results.items():
            families.add("minitoolai_engine_requests_total", count, engine, model, result)
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
        for name, listener in sources.transcription_engines.items():
            ready[name] = listener.why_not_ready() is None or ready.get(name, False)
        worker = sources.images.worker
        for name, painter in sources.images.engines.items():
            ready[name] = bool(worker.models_of(painter)) or ready.get(name, False)
        if worker.membership is not None and worker.membership.clock_offset is not None:
            families.add("minitoolai_clock_offset_seconds", worker.membership.clock_offset.ms * MS)
        families.add("minitoolai_images_unstored", len(worker.outage.waiting))
        for name, is_ready in ready.items():
            families.add("minitoolai_engine_ready", int(is_ready), name)
        now_s = sources.shared.clock.steady_s()
        for name in sources.engines:
            families.add("minitoolai_engine_resting", int(sources.router.breakers[name].is_resting(now_s)), name)
        for name, children in running_children().items():
            families.add("minitoolai_child_memory_bytes", children.memory, name)
            families.add("minitoolai_child_restarts_total", children.restarts, name)

    def _add_placed(self, families: _Families) -> None:
        wanted, running = Counter[str](), Counter[str]()
        for name, engine in self._sources.images.engines.items():
            if isinstance(engine, PlacedEngine):
                placed = engine.placed
                wanted[name], running[name] = placed.wanted, placed.running
                families.add("minitoolai_placed_capacity", placed.capacity, name)
        for server in self._sources.placed_servers:
            wanted[server.name] += 1
            running[server.name] += server.is_up
        for name in wanted:
            families.add("minitoolai_placed_engines", wanted[name], name, "wanted")
            families.add("minitoolai_placed_engines", running[name], name, "running")

    def _add_store(self, families: _Families) -> None:
        store = self._sources.images.objects
        for operation, count in store.failures.items():
            families.add("minitoolai_store_failures_total", count, operation)
        families.add("minitoolai_store_oldest_seconds", store.oldest_s())

    def _add_ledger(self, families: _Families) -> None:
        auditor, now_s = self._sources.auditor, self._sources.shared.clock.steady_s()
        families.add("minitoolai_books_broken", len(auditor.broken))
        checked_s = -1.0 if auditor.checked_s is None else now_s - auditor.checked_s
        families.add("minitoolai_books_checked_seconds", checked_s)


class Disk(NamedTuple):
    """Space of a file system, in bytes. `free` is what a program without privileges may use."""

    free: int
    size: int


def read_disks(folders: Mapping[str, Path]) -> dict[str, Disk]:
    """Return the space where these folders are, by name. A folder that is missing is left out."""
    found = {}
    for name, folder in folders.items():
        try:
            stats = os.statvfs(folder)
        except OSError as error:
            log.debug("cannot read the free space of %s: %s", folder, error)
            continue
        found[name] = Disk(stats.f_bavail * stats.f_frsize, stats.f_blocks * stats.f_frsize)
    return found


def _all_engine_results(catalog: Catalog) -> dict[tuple[str, str, EngineResult], int]:
    """Return zeros for what an alert divides, because Prometheus does not see the first event of a new series."""
    models: Iterable[Model] = itertools.chain(
        catalog.chat.values(),
        catalog.embeddings.values(),
        catalog.speech.values(),
        catalog.transcription.values(),
        catalog.images.values(),
    )
    results: tuple[EngineResult, ...] = ("succeeded", "failed", "refused")
    return {(engine, model.name, result): 0 for model in models for engine in model.engines for result in results}


def _add_gauges(families: _Families, gauges: LiveGauges, catalog: Catalog) -> None:
    for kind in ("chat", "image", "speech", "transcription"):
        families.add("minitoolai_holds_pending", gauges.holds.get(kind, 0), kind)
    families.add("minitoolai_held_dollars", gauges.held * NANO)
    for kind in ("chat", "speech", "transcription"):
        families.add("minitoolai_holds_oldest_seconds", gauges.oldest_hold_ms.get(kind, 0) * MS, kind)
    for model, count in (dict.fromkeys(catalog.images, 0) | gauges.queued).items():
        families.add("minitoolai_jobs_queued", count, model)
    families.add("minitoolai_workers", gauges.workers)
    families.add("minitoolai_workers_lost", gauges.workers_lost)
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
