"""kill -9 at random moments under load, and what must be true of the books afterwards."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitoolai.core.clock import parse_generation_name
from minitoolai.storage.audit import broken_invariants
from tests.support import catalogs
from tests.support.load import Caller, Seen
from tests.support.server import Account, ServerProcess

CALLERS = 24
#: Nano-dollars a token of the models in tests/support/catalogs.py.
PRICES = {"quick": (150, 600), "paced": (2007, 8003), "endless": (2007, 8003)}


@dataclass
class Tally:
    """What the kills came to."""

    kills: int = 0
    acknowledged: int = 0
    broken_off: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"sqlite kills={self.kills} acknowledged={self.acknowledged} broken_off={self.broken_off} "
            f"violations={len(self.violations)}"
        )


@dataclass
class Asked:
    """A request and what came back."""

    model: str
    words: int
    seen: Seen


def run_kills(folder: Path, kills: int, *, seed: int = 1) -> Tally:
    """Start, load, kill, start again, examine; as often as asked for."""
    draw, tally = random.Random(seed), Tally()
    server = ServerProcess(folder, catalog=catalogs.FAKE).start()
    try:
        for _ in range(kills):
            account = server.account("1000")
            asked = asyncio.run(_load_and_kill(server, account, draw))
            tally.kills += 1
            before = _wrong_books(server, settled=False)
            server.start()
            tally.violations += before + _wrong_books(server, settled=True)
            tally.violations += _wrong_charges(server, account, asked, tally)
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


def _wrong_books(server: ServerProcess, *, settled: bool) -> list[str]:
    """The audit's findings; once recovered, nothing may be pending either."""
    wrong = [f"{name}: {rows}" for name, rows in server.read(broken_invariants).items()]
    if settled:
        pending = server.read(lambda c: c.execute("SELECT id FROM holds WHERE state = 'pending' LIMIT 3"))
        wrong += [f"still pending: {pending}"] if pending else []
    return wrong


def _wrong_charges(server: ServerProcess, account: Account, asked: list[Asked], tally: Tally) -> list[str]:
    """Each acknowledged answer is charged once, in full; any other at most for what was streamed."""
    rows = server.read(
        lambda c: c.execute(
            "SELECT h.id, h.settled, count(t.hold_id), coalesce(sum(t.amount), 0) FROM holds h"
            " LEFT JOIN transfers t ON t.hold_id = h.id WHERE h.account_id = ? GROUP BY h.id",
            (account.id,),
        )
    )
    charged = {row[0]: row[1:] for row in rows}
    wrong = []
    for one in asked:
        number = parse_generation_name(one.seen.name) if one.seen.name else None
        if number is None:
            continue
        settled, times, taken = charged.pop(number, (0, 0, 0))
        price_in, price_out = PRICES[one.model]
        if one.seen.done and one.seen.status == 200:
            tally.acknowledged += 1
            usage = one.seen.usage
            assert usage is not None
            full = usage["prompt_tokens"] * price_in + usage["completion_tokens"] * price_out
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
