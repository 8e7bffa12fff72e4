"""500 callers at once on an account for exactly 100 requests: 100 answers, never a balance below zero."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import catalogs
from tests.support.load import Caller, Seen, many
from tests.support.outside_auditor import audit_ends
from tests.support.server import Account, ServerProcess

FUNDED, AT_ONCE = 100, 500
#: One word in at $1 a million, sixteen tokens out at $1000 a million: the fake engine's cost is its hold.
PRICE = 1000 + 16 * 1_000_000
BODY = {"model": "exact", "messages": [{"role": "user", "content": "word"}], "max_completion_tokens": 16}


@dataclass
class Burst:
    """What the bursts came to."""

    bursts: int = 0
    answers: int = 0
    refusals: int = 0
    looks: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"sqlite bursts={self.bursts} answers={self.answers} refusals={self.refusals} "
            f"violations={len(self.violations)}"
        )


def run_burst(folder: Path, bursts: int) -> Burst:
    """As often as asked for, each on a new account of one server."""
    tally = Burst()
    with ServerProcess(folder, catalog=catalogs.FAKE) as server:
        for _ in range(bursts):
            account = server.account(f"{FUNDED * PRICE / 1e9:.9f}")
            seen, lowest = asyncio.run(_hit(account))
            tally.bursts += 1
            tally.looks += len(lowest)
            counts = Counter(one.status for one in seen)
            tally.answers += counts[200]
            tally.refusals += counts[402]
            if counts != {200: FUNDED, 402: AT_ONCE - FUNDED} or not all(one.done for one in seen):
                tally.violations.append(f"statuses: {dict(counts)}")
            if min(lowest) < 0:
                tally.violations.append(f"the balance went to {min(lowest)}")
            if account.settled() != 0:
                tally.violations.append(f"{account.money().posted} are left")
            tally.violations += audit_ends(server, seen)
            tally.violations += [f"{name}: {rows}" for name, rows in server.read(broken_invariants).items()]
    return tally


async def _hit(account: Account) -> tuple[list[Seen], list[int]]:
    """What everybody got, and the balances seen meanwhile."""
    over, lowest = asyncio.Event(), [0]

    async def watch() -> None:
        while not over.is_set():
            money = await asyncio.to_thread(account.money)
            lowest.append(min(money.posted, money.available))
            await asyncio.sleep(0.005)

    watcher = asyncio.ensure_future(watch())
    callers = [Caller(account.server.port, account.key) for _ in range(AT_ONCE)]
    seen = await many(callers, [(BODY, None)] * AT_ONCE)
    over.set()
    await watcher
    return seen, lowest
