"""The power goes at a random moment: whatever was acknowledged must be there when it is back."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minitoolai.core.errors import StoreError
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Held
from minitoolai.storage.sqlite import SESSION, SqliteConnection
from minitoolai.storage.tables import ledger
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.books import TemporaryBooks, credit, hold, new_file, settle
from tests.support.power import Disk, PoweredConnection

#: Small, so that checkpoints are cut, too.
CHECKPOINT_PAGES = 24


@dataclass
class PowerTally:
    """What the cuts came to."""

    seeds: int = 0
    cuts: int = 0
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)


#: Moments at which the power goes in one history.
CUTS_EACH = 60


def run_power(folder: Path, cuts: int, *, seed: int = 1, batches: int = 120, synchronous: str = "") -> PowerTally:
    """Histories of batches, and so many moments in them at which the power goes. `synchronous`: instead of ours."""
    tally = PowerTally()
    while tally.cuts < cuts:
        history = folder / f"history{tally.seeds}"
        history.mkdir()
        _history(history, min(CUTS_EACH, cuts - tally.cuts), seed + tally.seeds, batches, synchronous, tally)
        shutil.rmtree(history)
        tally.seeds += 1
    return tally


def _history(folder: Path, cuts: int, seed: int, batches: int, synchronous: str, tally: PowerTally) -> None:
    draw, live = random.Random(seed), folder / "live"
    live.mkdir()
    books = TemporaryBooks(new_file(live))
    accounts = [books.account(10**9) for _ in range(3)]
    books.close()
    disk = Disk(live)
    pragmas = [*SESSION, f"wal_autocheckpoint={CHECKPOINT_PAGES}"]
    pragmas += [f"synchronous={synchronous}"] if synchronous else []
    told = _work(PoweredConnection(disk, books.path, pragmas), disk, accounts, draw, batches)
    tally.acknowledged += len(told)
    for number in range(cuts):
        at = draw.randint(told[0][0], len(disk.log))
        image = folder / f"cut{number}"
        disk.after_a_cut(at, draw, image)
        certain = [(hold_id, state) for place, hold_id, state in told if place <= at]
        tally.cuts += 1
        tally.violations += [f"cut at {at} of {len(disk.log)}: {wrong}" for wrong in _wrong(image, certain)]


def _work(
    connection: PoweredConnection, disk: Disk, accounts: Sequence[int], draw: random.Random, batches: int
) -> list[tuple[int, int, str]]:
    """(how much was in the log when it was acknowledged, hold, its state then) of everything that was."""
    told: list[tuple[int, int, str]] = []
    pending: list[tuple[int, int]] = []
    last = 0
    for number in range(batches):
        operations = []
        for _ in range(draw.randint(1, 6)):
            if pending and draw.random() < 0.5:
                operations.append(settle(*pending.pop(draw.randrange(len(pending))), 60))
            else:
                last += 1
                operations.append(hold(last, draw.choice(accounts), 100))
        operations.append(credit(draw.choice(accounts), 5, f"power:{number}"))
        with connection.transaction():
            verdicts = ledger.apply(connection, operations, decide)
        for operation, verdict in zip(operations[:-1], verdicts, strict=False):
            is_held = isinstance(verdict, Held)
            told.append((len(disk.log), operation.hold_id, "pending" if is_held else "posted"))
            if is_held:
                pending.append((operation.hold_id, operation.account_id))
    connection.close()
    return told


def _wrong(image: Path, certain: list[tuple[int, str]]) -> list[str]:
    """What the books say once the power is back, against what their callers had been told."""
    try:
        connection = SqliteConnection(image / "minitoolai.db")
        try:
            (checked,) = connection.execute("PRAGMA integrity_check(1)")
            if checked != ("ok",):
                return [f"the file is broken: {checked[0]}"]
            states = dict(connection.execute("SELECT id, state FROM holds"))
            wrong = [f"{name}: {rows[:2]}" for name, rows in broken_invariants(connection).items()]
        finally:
            connection.close()
    except StoreError as error:
        return [f"the file cannot be read: {error}"]
    latest = dict(certain)
    lost = [number for number, state in latest.items() if states.get(number) not in (state, "posted")]
    return wrong + ([f"{len(lost)} of {len(latest)} acknowledged operations are lost"] if lost else [])
