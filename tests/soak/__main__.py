"""`make soak`: hours of mixed traffic against one server, and the slopes of memory, descriptors, threads and latency.

    python -m tests.soak                    three hours; the first is the warm-up
    SOAK_MIN=20 python -m tests.soak        a short form: half of it is the warm-up
    python -m tests.soak --trace            also print what Python allocated between the warm-up and the end

Prints a table. Exit status 1 if a slope exceeds its limit.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.soak import samples
from tests.support.mixed_traffic import MixedTraffic, catalog, failing
from tests.support.server import ServerProcess
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

SAMPLE_EVERY_S = 10.0


def main() -> int:
    """Run the traffic and print the table."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="soak-", dir=options.folder) as folder:
        path = options.samples or Path(folder) / "samples.jsonl"
        _run(Path(folder), path, options)
        found = samples.read(path)
    print(samples.table(found, options.minutes * 60))
    excesses = samples.excesses(found, options.minutes * 60)
    for excess in excesses:
        print(excess, file=sys.stderr)
    return 1 if excesses else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    minutes = float(os.environ.get("SOAK_MIN", "180"))
    parser.add_argument("--minutes", type=float, default=minutes, help="how long (SOAK_MIN or 180)")
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second (15)")
    parser.add_argument("--trace", action="store_true", help="name what grew; makes the server slower")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="keep the samples, one JSON object a line")
    parser.add_argument("--folder", help="where the server keeps its data; a temporary folder by default")
    return parser.parse_args()


def _run(folder: Path, path: Path, options: argparse.Namespace) -> None:
    env = {"MINITOOLAI_METRICS_LISTEN": "127.0.0.1:0", "MINITOOLAI_STREAMS": "1000"}
    trace = folder / "trace.txt"
    if options.trace:
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "tracing"), os.environ.get("PYTHONPATH", "")])
        env["TEST_TRACE"] = str(trace)
        trace.touch()
    with Upstream(failing(0.02), records=False) as upstream:
        text = catalog(upstream, embedded=True)
        with (
            ServerProcess(folder, catalog=text, env=env) as server,
            MixedTraffic(server, options.rate, embedded=True) as traffic,
        ):
            _watch(server, traffic, path, options)
            if options.trace:
                os.kill(server.pid, signal.SIGUSR2)
                eventually(lambda: "=== end" in trace.read_text(), within_s=60)
                print(trace.read_text())
    print(f"answers: {dict(sorted(traffic.answers.items()))}")
    for fault in traffic.faults[:10]:
        print(f"no answer: {fault}", file=sys.stderr)


def _watch(server: ServerProcess, traffic: MixedTraffic, path: Path, options: argparse.Namespace) -> None:
    started_s, marked = time.monotonic(), False
    path.write_text("")
    while (now_s := time.monotonic() - started_s) < options.minutes * 60:
        sample = samples.take(server.pid, now_s, traffic.take_latency_ms(), traffic.sent)
        with path.open("a") as file:
            file.write(sample.line() + "\n")
        if options.trace and not marked and now_s > options.minutes * 30:
            os.kill(server.pid, signal.SIGUSR2)
            marked = True
        time.sleep(SAMPLE_EVERY_S - (time.monotonic() - started_s) % SAMPLE_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
