"""Start the gateways, send load to one of them at a time, and read CPU and memory from /proc.

All gateways are up at the same time, so that rounds can be interleaved: the machine changes from minute to minute.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.gateways import Gateway, Place, Running
from bench.guard import Busy, cores_of, limit_of
from bench.procs import Child, StartFailed, cpu_s_of, free_port, rss_mb_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    rounds: int
    seconds: float
    callers: int
    streams: int
    gateway_cores: set[int] | None
    load_cores: set[int] | None
    #: The process of the mock, whose CPU is compared with what it can use.
    mock_pid: int | None = None


@dataclass
class Sample:
    """Hold the result of one gateway, one round and one kind of request."""

    done: int
    errors: int
    seconds: float
    cpu_ms: float | None
    busy: float | None
    first_median_ms: float | None
    first_p99_ms: float | None
    whole_median_ms: float | None = None
    whole_p99_ms: float | None = None
    stalled: int = 0
    worst_gap_ms: float = 0.0
    mock_busy: float = 0.0
    load_busy: float = 0.0
    #: What limited the load, if it was not the gateway: see guard.py.
    limit: str | None = None

    @property
    def rate(self) -> float:
        """Responses per second."""
        return self.done / self.seconds


@dataclass
class Row:
    """Hold all results of one gateway."""

    name: str
    title: str
    bills: str
    missing: str | None = None
    plain: list[Sample] = field(default_factory=list)
    stream: list[Sample] = field(default_factory=list)
    #: Streams one after the other.
    alone: list[Sample] = field(default_factory=list)
    answers: int = 0
    failures: int = 0
    rss_mb: float | None = None
    books: str = "–"
    complaints: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Row":
        """Return the row that `as_json` wrote."""
        samples = {kind: [Sample(**sample) for sample in raw[kind]] for kind in ("plain", "stream", "alone")}
        return cls(**{**raw, **samples})


@dataclass
class Lab:
    """The running gateways with their rows, and the mock behind them."""

    plan: Plan
    up: list[tuple[Gateway, Row, Running]]
    folder: Path
    #: All gateways, those that are missing as well.
    rows: list[Row]

    def check_books(self) -> None:
        """Check the accounts of gateways that bill."""
        for gateway, row, running in self.up:
            try:
                row.books = gateway.check_books(running, answers=row.answers, errors=row.failures)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                row.books = f"could not be checked: {error}"


@contextmanager
def lab_of(gateways: list[Gateway], plan: Plan, say: Say) -> Iterator[Lab]:
    """Start the mock and every gateway that is installed, and stop them at the end."""
    rows = [Row(g.name, g.title, g.bills, missing=g.missing()) for g in gateways]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        place = start_mock(Path(folder), plan, stack)
        lab = Lab(replace(plan, mock_pid=place.mock_pid), [], Path(folder), rows)
        for gateway, row in zip(gateways, rows, strict=True):
            if row.missing is None and (running := _start(gateway, row, place, stack, say)):
                lab.up.append((gateway, row, running))
        yield lab


def run(gateways: list[Gateway], plan: Plan, say: Say) -> list[Row]:
    """Measure plain requests, streams and streams one after the other, in interleaved rounds."""
    with lab_of(gateways, plan, say) as lab:
        for _, row, running in lab.up:
            warm_up(row, running, lab.plan)
        for number in range(plan.rounds):
            for _, row, running in lab.up:
                say(f"round {number + 1} of {plan.rounds}: {row.title}")
                row.plain.append(load(row, running, lab.plan, callers=plan.callers, stream=False))
                row.stream.append(load(row, running, lab.plan, callers=plan.streams, stream=True))
                row.alone.append(load(row, running, lab.plan, callers=1, stream=True))
        for _, row, running in lab.up:
            row.rss_mb = rss_mb_of(running.child.pid) if running.child else None
        lab.check_books()
        return lab.rows


def start_mock(folder: Path, plan: Plan, stack: ExitStack) -> Place:
    full, lean = free_port(), free_port()
    command = [sys.executable, "-m", "bench.mock", str(full), str(lean)]
    child = Child(command, log=folder / "mock.log", cores=plan.load_cores)
    stack.callback(child.stop)
    child.wait_ready(f"http://127.0.0.1:{full}/health", within_s=10)
    return Place(folder, plan.gateway_cores, full, lean, child.pid)


def _start(gateway: Gateway, row: Row, place: Place, stack: ExitStack, say: Say) -> Running | None:
    say(f"starting {row.title}")
    home = place.folder / gateway.name
    home.mkdir()
    try:
        running = gateway.start(replace(place, folder=home))
    except (StartFailed, RuntimeError, OSError) as error:
        row.missing = f"did not start: {error}"
        return None
    if running.child:
        stack.callback(running.child.stop)
    return running


def warm_up(row: Row, running: Running, plan: Plan) -> None:
    """Run each kind of load briefly. Its responses count only for the check of the accounts."""
    brief = replace(plan, seconds=min(1.0, plan.seconds))
    load(row, running, brief, callers=plan.callers, stream=False)
    load(row, running, brief, callers=plan.streams, stream=True)


def load_command(running: Running, plan: Plan, *options: str, callers: int, stream: bool = False) -> list[str]:
    """Return the command of the load generator for this gateway."""
    command = [sys.executable, "-m", "bench.load", "--port", str(running.port), "--key", running.key]
    command += ["--path", running.path, "--model", running.model]
    command += ["--seconds", str(plan.seconds), "--callers", str(callers), *options]
    command += [part for header in running.headers for part in ("--header", header)]
    command += ["--stream"] if stream else []
    if plan.load_cores:
        command += ["--cores", ",".join(map(str, plan.load_cores))]
    return command


def load(row: Row, running: Running, plan: Plan, *options: str, callers: int, stream: bool = False) -> Sample:
    """Send load for `plan.seconds`. `options` are more options of the load generator."""
    seconds, gateway = plan.seconds, running.child.pid if running.child else None
    before, mock_before = _cpu_s(gateway), _cpu_s(plan.mock_pid)
    command = load_command(running, plan, *options, callers=callers, stream=stream)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    used_s, mock_s = _cpu_s(gateway) - before, _cpu_s(plan.mock_pid) - mock_before
    if done.returncode:
        row.failures += 1
        row.complaints.append(f"the load generator failed: {done.stderr.strip()[-300:]}")
        return Sample(0, 1, seconds, None, None, None, None)
    report = json.loads(done.stdout)
    row.complaints += [" ".join(sample.split()) for sample in report.pop("samples")]
    row.answers += report["done"]
    row.failures += report["errors"]
    took_s, load_s = report["seconds"], report.pop("load_cpu_s")
    busy = Busy(used_s / took_s if gateway else None, mock_s / took_s, load_s / took_s, cores_of(plan.load_cores))
    return Sample(
        **report,
        cpu_ms=used_s * 1000 / report["done"] if gateway and report["done"] else None,
        busy=busy.gateway,
        mock_busy=busy.mock,
        load_busy=busy.load,
        limit=limit_of(busy),
    )


def _cpu_s(pid: int | None) -> float:
    return cpu_s_of(pid) if pid else 0.0
