"""Run the bench: all gateways are up at the same time, rounds are interleaved, CPU is read from /proc."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.gateways import Gateway, Place, Running
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


def run(gateways: list[Gateway], plan: Plan, say: Say) -> list[Row]:
    rows = [Row(g.name, g.title, g.bills, missing=g.missing()) for g in gateways]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        place = start_mock(Path(folder), plan, stack)
        up: list[tuple[Gateway, Row, Running]] = []
        for gateway, row in zip(gateways, rows, strict=True):
            if row.missing is None and (running := _start(gateway, row, place, stack, say)):
                up.append((gateway, row, running))
        for _, row, running in up:
            _warm_up(row, running, plan)
        for number in range(plan.rounds):
            for _, row, running in up:
                say(f"round {number + 1} of {plan.rounds}: {row.title}")
                row.plain.append(load(row, running, plan, callers=plan.callers, stream=False))
                row.stream.append(load(row, running, plan, callers=plan.streams, stream=True))
                row.alone.append(load(row, running, plan, callers=1, stream=True))
        for gateway, row, running in up:
            row.rss_mb = rss_mb_of(running.child.pid) if running.child else None
            _check_books(gateway, row, running)
    return rows


def start_mock(folder: Path, plan: Plan, stack: ExitStack) -> Place:
    full, lean = free_port(), free_port()
    command = [sys.executable, "-m", "bench.mock", str(full), str(lean)]
    child = Child(command, log=folder / "mock.log", cores=plan.load_cores)
    stack.callback(child.stop)
    child.wait_ready(f"http://127.0.0.1:{full}/health", within_s=10)
    return Place(folder, plan.gateway_cores, full, lean)


def _start(gateway: Gateway, row: Row, place: Place, stack: ExitStack, say: Say) -> Running | None:
    say(f"starting {row.title}")
    home = place.folder / gateway.name
    home.mkdir()
    try:
        running = gateway.start(Place(home, place.cores, place.full_port, place.lean_port))
    except (StartFailed, RuntimeError, OSError) as error:
        row.missing = f"did not start: {error}"
        return None
    if running.child:
        stack.callback(running.child.stop)
    return running


def _warm_up(row: Row, running: Running, plan: Plan) -> None:
    """Run each kind of load briefly. Its responses count only for the check of the accounts."""
    brief = replace(plan, seconds=min(1.0, plan.seconds))
    load(row, running, brief, callers=plan.callers, stream=False)
    load(row, running, brief, callers=plan.streams, stream=True)


def load(row: Row, running: Running, plan: Plan, *, callers: int, stream: bool) -> Sample:
    seconds = plan.seconds
    command = [sys.executable, "-m", "bench.load", "--port", str(running.port), "--key", running.key]
    command += ["--seconds", str(seconds), "--callers", str(callers)]
    command += [part for header in running.headers for part in ("--header", header)]
    command += ["--stream"] if stream else []
    if plan.load_cores:
        command += ["--cores", ",".join(map(str, plan.load_cores))]
    before = cpu_s_of(running.child.pid) if running.child else 0.0
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    used_s = cpu_s_of(running.child.pid) - before if running.child else None
    if done.returncode:
        row.failures += 1
        row.complaints.append(f"the load generator failed: {done.stderr.strip()[-300:]}")
        return Sample(0, 1, seconds, None, None, None, None)
    report = json.loads(done.stdout)
    row.complaints += [" ".join(sample.split()) for sample in report["samples"]]
    row.answers += report["done"]
    row.failures += report["errors"]
    return Sample(
        done=report["done"],
        errors=report["errors"],
        seconds=report["seconds"],
        cpu_ms=used_s * 1000 / report["done"] if used_s is not None and report["done"] else None,
        busy=used_s / report["seconds"] if used_s is not None else None,
        first_median_ms=report["first_median_ms"],
        first_p99_ms=report["first_p99_ms"],
    )


def _check_books(gateway: Gateway, row: Row, running: Running) -> None:
    try:
        row.books = gateway.check_books(running, answers=row.answers, errors=row.failures)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        row.books = f"could not be checked: {error}"
