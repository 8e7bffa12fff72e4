"""kill -9 at random moments under load, and what must be true of the books afterwards."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitoolai.core.clock import parse_generation_name
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import catalogs
from tests.support.load import Caller, Seen
from tests.support.outside_auditor import audit_ends
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

CALLERS = 24
#: On PostgreSQL the dead are recovered when their leases end: so many kills are waited for together.
TOGETHER = 10
#: Nano-dollars a token of the models in tests/support/catalogs.py.
PRICES = {"quick": (150, 600), "paced": (2007, 8003), "endless": (2007, 8003)}


@dataclass
class Tally:
    """What the kills came to."""

    database: str = "sqlite"
    kills: int = 0
    acknowledged: int = 0
    broken_off: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.database} kills={self.kills} acknowledged={self.acknowledged} broken_off={self.broken_off} "
            f"violations={len(self.violations)}"
        )


@dataclass
class Asked:
    """A request and what came back."""

    model: str
    words: int
    seen: Seen


def run_kills(folder: Path, kills: int, *, seed: int = 1, url: str = "") -> Tally:
    """Start, load, kill, examine, start again, examine; as often as asked for. `url`: on PostgreSQL."""
    draw, tally = random.Random(seed), Tally("postgres" if url else "sqlite")
    server = ServerProcess(folder, catalog=catalogs.FAKE, env={"MINITOOLAI_DATABASE_URL": url} if url else None)
    server.start()
    try:
        while tally.kills < kills:
            rounds: list[tuple[Account, list[Asked]]] = []
            for _ in range(min(TOGETHER, kills - tally.kills) if url else 1):
                account = server.account("1000")
                rounds.append((account, asyncio.run(_load_and_kill(server, account, draw))))
                tally.kills += 1
                tally.violations += _wrong_books(server) + _lost(*rounds[-1])
                server.start()
            tally.violations += _not_recovered(server, within_s=45 if url else 2) + _wrong_books(server)
            for account, asked in rounds:
                tally.violations += _wrong_charges(account, asked, tally)
                tally.violations += audit_ends(server, [one.seen for one in asked])
        server.stop()
    finally:
        server.kill()
    return tally


async def _load_and_kill(server: ServerProcess, account: Account, draw: random.Random) -> list[Asked]:
    """Ask without end; kill at a random moment; what every request saw."""
    asked: list[Asked] = []
    killed = asyncio.Event()

    async def work(number: int) -> None:
        caller = Caller(server.port, account.key)
        while not killed.is_set():
            model, words = draw.choice(["quick", "quick", "paced", "endless"]), draw.randint(1, 20)
            limit = draw.randint(1, 60)
            leave = draw.randint(0, 5) if number % 10 == 0 else None
            body: dict[str, Any] = {
                "model": model,
                "messages": [{"role": "user", "content": "word " * words}],
                "max_completion_tokens": limit,
            }
            asked.append(Asked(model, words, await caller.ask(body, leave_after=leave)))
        await caller.close()

    tasks = [asyncio.ensure_future(work(number)) for number in range(CALLERS)]
    # Up to a little more than two checkpoints: some answers have one behind them, some none.
    await asyncio.sleep(draw.uniform(0.05, 2.2))
    killed.set()
    await asyncio.to_thread(server.kill)
    await asyncio.gather(*tasks)
    return asked


def _wrong_books(server: ServerProcess) -> list[str]:
    """The audit's findings."""
    return [f"{name}: {rows}" for name, rows in server.read(broken_invariants).items()]


def _not_recovered(server: ServerProcess, within_s: float) -> list[str]:
    """Holds that are still pending when every lease has ended."""

    def pending() -> Any:
        return server.read(lambda c: c.execute("SELECT id FROM holds WHERE state = 'pending' LIMIT 3"))

    try:
        eventually(lambda: not pending(), within_s=within_s, every_s=0.2)
    except AssertionError:
        return [f"still pending: {pending()}"]
    return []


def _charges(account: Account) -> dict[int, tuple[int, int, int]]:
    """Hold → what it says was settled, the number of its transfers, and their sum."""
    rows = account.server.read(
        lambda c: c.execute(
            "SELECT h.id, h.settled, count(t.hold_id), coalesce(sum(t.amount), 0) FROM holds h"
            " LEFT JOIN transfers t ON t.hold_id = h.id WHERE h.account_id = ? GROUP BY h.id",
            (account.id,),
        )
    )
    return {row[0]: row[1:] for row in rows}


def _full_price(one: Asked) -> int:
    """What an answer that came to its end costs, by the usage that its caller was told."""
    usage, (price_in, price_out) = one.seen.usage, PRICES[one.model]
    assert usage is not None
    return int(usage["prompt_tokens"] * price_in + usage["completion_tokens"] * price_out)


def _lost(account: Account, asked: list[Asked]) -> list[str]:
    """Right after the kill, before anybody recovered anything: whatever was acknowledged must be there."""
    charged, wrong = _charges(account), []
    for one in asked:
        if one.seen.done and one.seen.status == 200:
            full, found = _full_price(one), charged.get(parse_generation_name(one.seen.name) or 0)
            if found != (full, 1, full):
                wrong.append(f"{one.seen.name}: acknowledged at {full}, and after the kill there is {found}")
    return wrong


def _wrong_charges(account: Account, asked: list[Asked], tally: Tally) -> list[str]:
    """Each acknowledged answer is charged once, in full; any other at most for what was streamed."""
    charged = _charges(account)
    wrong = []
    for one in asked:
        number = parse_generation_name(one.seen.name) if one.seen.name else None
        if number is None:
            continue
        settled, times, taken = charged.pop(number, (0, 0, 0))
        price_in, price_out = PRICES[one.model]
        if one.seen.done and one.seen.status == 200:
            tally.acknowledged += 1
            full = _full_price(one)
            if (settled, times, taken) != (full, 1, full):
                wrong.append(f"{one.seen.name}: told {full}, charged {taken} in {times} transfers")
        else:
            tally.broken_off += 1
            streamed = one.words * price_in + one.seen.tokens * price_out if one.seen.tokens else 0
            # Who hung up did not see the last of what was sent to him.
            if taken > streamed and not one.seen.left:
                wrong.append(f"{one.seen.name}: {one.seen.tokens} tokens were streamed, {taken} > {streamed} charged")
    # What is left was begun for callers who saw no head. Only one who hung up himself can have been streamed to.
    unseen = sum(one.seen.left and not one.seen.name for one in asked)
    costly = [number for number, (_, times, _) in charged.items() if times]
    if len(costly) > unseen:
        wrong.append(f"charged without an answer: {costly[:5]}")
    return wrong
