"""Two thousand streams of a token a second on one process: no error, flat memory, and nobody waits for his first token.

python -m tests.chaos.load                              2,000 streams for five minutes, on a quiet machine
python -m tests.chaos.load --streams 500 --seconds 20   a short form
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from minitoolai.billing.charging import LEASE_MS
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.load import Caller, Seen
from tests.support.outside_auditor import audit_ends
from tests.support.probe import probe
from tests.support.server import Account, ServerProcess

CATALOG = """
[engines.quick]
kind = "fake"
model = "fake-1"
tokens = 4

[engines.steady]
kind = "fake"
model = "fake-1"
tokens = {tokens}
delay_ms = 1000
total_timeout_s = {timeout}

[chat.quick]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["quick"]

[chat.steady]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["steady"]
"""
#: Seconds over which the streams begin: a crowd, not a thundering herd.
RAMP_S = 5.0
#: At the 99th percentile, of time to the first token under load against that without.
ADDED_MS = 20.0
#: A lease is renewed each second; by then it must be written, and a process may have had to wait for a processor.
RENEWED_S = 3.0
#: Megabytes that a process may grow between the first fifth and the end, beside a tenth.
SLACK_MB = 8.0


@dataclass
class LoadTally:
    """What the load came to. Times in milliseconds, memory in MB."""

    streams: int = 0
    tokens: int = 0
    seconds: float = 0.0
    idle_ms: float = 0.0
    median_ms: float = 0.0
    p99_ms: float = 0.0
    early_mb: float = 0.0
    late_mb: float = 0.0
    #: The part of one core that the server took.
    cpu: float = 0.0
    #: Seconds since the lease was renewed that was renewed longest ago.
    renewed_s: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def added_ms(self) -> float:
        return self.p99_ms - self.idle_ms

    def __str__(self) -> str:
        return (
            f"streams={self.streams} seconds={self.seconds:.0f} tokens={self.tokens} idle={self.idle_ms:.1f}ms"
            f" median={self.median_ms:.1f}ms p99={self.p99_ms:.1f}ms added_p99={self.added_ms:.1f}ms"
            f" memory={self.early_mb:.0f}->{self.late_mb:.0f}MB cpu={self.cpu:.2f} renewed={self.renewed_s:.1f}s"
            f" violations={len(self.violations)}"
        )


def run_load(folder: Path, streams: int, seconds: int, *, url: str = "") -> LoadTally:
    """So many streams for so long, beside a caller who wants a first token ten times a second."""
    tally = LoadTally(streams)
    catalog = CATALOG.format(tokens=seconds, timeout=seconds * 2.0 + 60)
    # One customer with so many streams is the load, not a thing to be limited.
    env = {"MINITOOLAI_STREAMS": "100000"} | ({"MINITOOLAI_DATABASE_URL": url} if url else {})
    with ServerProcess(folder, catalog=catalog, env=env) as server:
        account = server.account("1000")
        seen = asyncio.run(_crowd(account, streams, seconds, tally))
        counts = Counter((one.status, one.done) for one in seen)
        if counts != {(200, True): streams}:
            tally.violations.append(f"answers (status, whole): {dict(counts)}")
        tally.tokens = sum(one.tokens for one in seen)
        if tally.tokens != streams * seconds:
            tally.violations.append(f"{tally.tokens} of {streams * seconds} tokens arrived")
        if tally.late_mb > tally.early_mb * 1.1 + SLACK_MB:
            tally.violations.append(f"memory grew from {tally.early_mb:.0f} to {tally.late_mb:.0f} MB")
        if tally.renewed_s > RENEWED_S:
            tally.violations.append(f"a lease was renewed {tally.renewed_s:.1f} s ago")
        account.settled(within_s=30)
        tally.violations += audit_ends(server, seen)
        tally.violations += [f"{name}: {rows}" for name, rows in server.read(broken_invariants).items()]
    return tally


async def _crowd(account: Account, streams: int, seconds: int, tally: LoadTally) -> list[Seen]:
    loop, server = asyncio.get_running_loop(), account.server
    tally.idle_ms = statistics.median(await probe(server.port, account.key, 3.0))
    seen: list[Seen] = []

    async def stream(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        caller = Caller(server.port, account.key)
        body = {"model": "steady", "messages": [{"role": "user", "content": "go"}], "max_completion_tokens": 4096}
        seen.append(await caller.ask(body))
        await caller.close()

    started_s, cpu_s = loop.time(), server.cpu_s()
    tasks = [asyncio.ensure_future(stream(RAMP_S * number / streams)) for number in range(streams)]
    # The first fifth is everybody's beginning; what comes after it must cost no more.
    await asyncio.sleep(RAMP_S + seconds / 5)
    tally.early_mb = server.resident_mb()
    times_ms = await probe(server.port, account.key, max(1.0, seconds * 0.7 - RAMP_S))
    tally.renewed_s = max([await _renewed_s(server) for _ in range(10)])
    tally.late_mb = server.resident_mb()
    await asyncio.gather(*tasks)
    tally.seconds = loop.time() - started_s
    tally.cpu = (server.cpu_s() - cpu_s) / tally.seconds
    tally.median_ms = statistics.median(times_ms)
    tally.p99_ms = sorted(times_ms)[min(len(times_ms) - 1, len(times_ms) * 99 // 100)]
    return seen


async def _renewed_s(server: ServerProcess) -> float:
    """Seconds since the renewal that is longest ago, as the books have it now."""
    await asyncio.sleep(0.1)
    first = server.read(lambda c: c.execute("SELECT min(lease_until_ms) FROM holds WHERE state = 'pending'"))
    return (time.monotonic() * 1000 + LEASE_MS - first[0][0]) / 1000 if first[0][0] else 0.0


def main() -> int:
    """Print one line; exit status 1 for an error, for memory that grew, or for more than 20 ms added."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=2000, help="at once (2000)")
    parser.add_argument("--seconds", type=int, default=300, help="for so long (300)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_load(Path(folder), options.streams, options.seconds)
    if tally.added_ms > ADDED_MS:
        tally.violations.append(f"{tally.added_ms:.1f} ms were added to the first token at the 99th percentile")
    print(tally)
    for violation in tally.violations:
        print(violation, file=sys.stderr)
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
