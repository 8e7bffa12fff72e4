"""What several processes cost on PostgreSQL: CPU of the processes and of the database, for the same load.

The load is 48 streams of 50 tokens, 5 ms apart, so that every number of processes gets the same one. The servers take
turns on one PostgreSQL server, each with a database of its own. A wake-up is a thread that had waited: it finds all
sockets that became ready meanwhile, so that a process with many streams needs fewer of them for each.

    python -m bench.processes                 one process beside four
    python -m bench.processes --workers 1 2 4 --streams 96
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster import Cluster, running_cluster

from bench.gateways import Place, Running
from bench.measure import Plan, Row, load, start_mock
from bench.ours import Ours
from bench.procs import cpu_s_of, wakeups_of

Say = Callable[[str], None]


class OursOnPostgres(Ours):
    """MiniToolAI with several processes on one PostgreSQL database."""

    def __init__(self, workers: int, url: str) -> None:
        super().__init__()
        self.workers = workers
        self._url = url

    def environment(self, place: Place) -> dict[str, str]:
        """Return the settings of the server."""
        return super().environment(place) | {
            "MINITOOLAI_DATABASE_URL": self._url,
            "MINITOOLAI_WORKERS": str(self.workers),
        }


@dataclass
class Figures:
    """What each round of one number of processes came to, for one stream."""

    workers: int
    row: Row
    api_ms: list[float] = field(default_factory=list)
    database_ms: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)
    wakeups: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)

    def total_ms(self) -> list[float]:
        """Return the CPU of processes and database together, by round."""
        return [a + b for a, b in zip(self.api_ms, self.database_ms, strict=True)]


def main() -> int:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.processes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4], help="numbers of processes to compare")
    parser.add_argument("--streams", type=int, default=48, help="streams in flight")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round")
    options = parser.parse_args()
    plan = Plan(options.rounds, options.seconds, options.streams, options.streams, None, None)
    found = measure(options.workers, plan, lambda text: print(text, file=sys.stderr, flush=True))
    print_table(found)
    return 0 if all(figures.row.books == "exact" for figures in found) else 1


def measure(numbers: list[int], plan: Plan, say: Say) -> list[Figures]:
    """Start a server for each number of processes, and load them in turns."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(on_disk=True))
        place = start_mock(Path(folder), plan, stack)
        up: list[tuple[Ours, Running, Figures]] = []
        for workers in numbers:
            home = Path(folder) / str(workers)
            home.mkdir()
            gateway = OursOnPostgres(workers, cluster.url(cluster.create()))
            running = gateway.start(Place(home, None, place.full_port, place.lean_port))
            assert running.child is not None
            stack.callback(running.child.stop)
            up.append((gateway, running, Figures(workers, Row(str(workers), str(workers), "yes"))))
        for number in range(-1, plan.rounds):
            for _, running, figures in up:
                say(f"round {number + 1} of {plan.rounds}: {figures.workers} processes")
                _round(cluster, running, figures, plan, counts=number >= 0)
        for gateway, running, figures in up:
            row = figures.row
            row.books = gateway.check_books(running, answers=row.answers, errors=row.failures)
    return [figures for _, _, figures in up]


def _round(cluster: Cluster, running: Running, figures: Figures, plan: Plan, *, counts: bool) -> None:
    assert running.child is not None
    before_s, commits, wakeups = cpu_s_of(cluster.pid), _commits(cluster), wakeups_of(running.child.pid)
    sample = load(figures.row, running, plan, callers=plan.streams, stream=True)
    used_s = cpu_s_of(cluster.pid) - before_s
    if counts and sample.done and sample.cpu_ms is not None:
        figures.api_ms.append(sample.cpu_ms)
        figures.database_ms.append(used_s * 1000 / sample.done)
        figures.commits.append((_commits(cluster) - commits) / sample.done)
        figures.wakeups.append((wakeups_of(running.child.pid) - wakeups) / sample.done)
        figures.first_ms.append(sample.first_median_ms or 0.0)


def _commits(cluster: Cluster) -> int:
    return int(cluster.execute("SELECT sum(xact_commit) FROM pg_stat_database")[0][0])


def print_table(found: list[Figures]) -> None:
    """Print the medians, and each number of processes divided by the first, round by round."""
    first = found[0].total_ms()
    heads = ["processes", "CPU ms a stream: processes", "PostgreSQL", "together", "× first", "commits", "wake-ups"]
    print("| " + " | ".join([*heads, "first token, ms", "books"]) + " |")
    print("|" + "---:|" * (len(heads) + 1) + "---|")
    for one in found:
        ratios = [mine / base for mine, base in zip(one.total_ms(), first, strict=True)]
        cells = [one.api_ms, one.database_ms, one.total_ms(), ratios, one.commits, one.wakeups, one.first_ms]
        medians = " | ".join(f"{statistics.median(values):.2f}" for values in cells)
        print(f"| {one.workers} | {medians} | {one.row.books} |")


if __name__ == "__main__":
    sys.exit(main())
