"""Run the two ledgers that bench/ledger.py compares: MiniToolAI's, and one transaction per transfer in PL/pgSQL."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psycopg

from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Credit, Held, PlaceHold, Settle, Settled
from minitoolai.storage.opening import migrate, open_database
from minitoolai.storage.tables import accounts, ledger
from minitoolai.storage.writer import Writer

FUNDS = 10**15
HOLD, COST = 1000, 600
CHAT = NewGeneration("chat", "gpt-4o-mini", "fake", 150, 600)
DONE = Outcome("succeeded", input_units=3, output_units=5)


@dataclass(frozen=True)
class Load:
    """Hold the load on both sides."""

    accounts: int
    processes: int
    callers: int
    seconds: float


@dataclass(frozen=True)
class Figures:
    """Hold the result of one measurement. A pair is a hold and its settle."""

    pairs: int
    seconds: float
    commits: int

    @property
    def pairs_each_s(self) -> float:
        return self.pairs / self.seconds

    @property
    def commits_a_pair(self) -> float:
        return self.commits / max(1, self.pairs)


# ── MiniToolAI ──────────────────────────────────────────────────────────────────────────────────────────────────


def prepare_ours(url: str, load: Load) -> list[int]:
    """Create customers with more money than they can spend."""
    migrate(url)
    database = open_database(url, serving=True)
    connection = database.connect()
    made = []
    with connection.transaction():
        accounts.ensure_system_accounts(connection, 0)
        for number in range(load.accounts):
            made.append(accounts.create_account(connection, f"customer{number}@example.com", None, 0))
            ledger.apply(connection, [Credit(made[-1], FUNDS, "grant", f"grant:{number}", 0)], decide)
    connection.close()
    database.close()
    return made


def run_ours(url: str, customers: list[int], load: Load) -> Figures:
    """Run processes with a writer each, all on the same accounts."""
    start_at_s = time.time() + 2
    with ProcessPoolExecutor(load.processes, mp_context=get_context("spawn")) as pool:
        work = [pool.submit(_process, url, customers, number, load, start_at_s) for number in range(load.processes)]
        found = [one.result() for one in work]
    database = open_database(url, serving=True)
    broken = database.read(ledger.broken_invariants)
    database.close()
    assert broken == {}, broken
    return Figures(sum(pairs for pairs, _ in found), load.seconds, sum(commits for _, commits in found))


def _process(url: str, customers: list[int], number: int, load: Load, start_at_s: float) -> tuple[int, int]:
    return asyncio.run(_pairs(url, customers, number, load, start_at_s))


async def _pairs(url: str, customers: list[int], number: int, load: Load, start_at_s: float) -> tuple[int, int]:
    database = open_database(url, serving=True)
    writer = Writer(database, decide)
    writer.start()
    done, next_id = 0, (time.time_ns() // 1_000_000 << 20) + (number << 17)
    await asyncio.sleep(max(0.0, start_at_s - time.time()))
    end_s = time.monotonic() + load.seconds

    async def caller(place: int) -> None:
        nonlocal done, next_id
        while time.monotonic() < end_s:
            next_id += 1
            hold_id, account = next_id, customers[(place + next_id) % len(customers)]
            hold = PlaceHold(hold_id, account, "key000000001", "chat", HOLD, 0, 1, 1, 2**62, 0, CHAT)
            held = await writer.submit(hold)  # type: ignore[misc]
            assert isinstance(held, Held), held
            settled = await writer.submit(Settle(hold_id, account, COST, 0, DONE))  # type: ignore[misc]
            assert isinstance(settled, Settled), settled
            if time.monotonic() < end_s:
                done += 1

    await asyncio.gather(*(caller(place * 7919) for place in range(load.callers)))
    await asyncio.to_thread(writer.stop)
    database.close()
    return done, writer.counts.commits


# ── one transaction per transfer ─────────────────────────────────────────────────────────────────────

#: In the style of pgledger: every account is a row; every transfer locks its accounts in order, moves the money, and
#: writes the transfer and an entry for each account, all inside one function call. The names are our own.
SCHEMA = """
CREATE TABLE ledger_accounts (
    id bigint PRIMARY KEY, balance bigint NOT NULL DEFAULT 0, version bigint NOT NULL DEFAULT 0,
    may_be_negative boolean NOT NULL DEFAULT false, CHECK (may_be_negative OR balance >= 0));
CREATE TABLE ledger_transfers (
    id bigserial PRIMARY KEY, from_account bigint NOT NULL REFERENCES ledger_accounts,
    to_account bigint NOT NULL REFERENCES ledger_accounts, amount bigint NOT NULL CHECK (amount > 0),
    created timestamptz NOT NULL DEFAULT now(), CHECK (from_account <> to_account));
CREATE TABLE ledger_entries (
    id bigserial PRIMARY KEY, account bigint NOT NULL REFERENCES ledger_accounts,
    transfer bigint NOT NULL REFERENCES ledger_transfers, amount bigint NOT NULL,
    balance_before bigint NOT NULL, balance_after bigint NOT NULL, version bigint NOT NULL,
    created timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON ledger_entries (account);
CREATE INDEX ON ledger_entries (transfer);

CREATE FUNCTION move(source bigint, target bigint, much bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    made bigint; seen record;
BEGIN
    PERFORM 1 FROM ledger_accounts WHERE id IN (source, target) ORDER BY id FOR UPDATE;
    INSERT INTO ledger_transfers (from_account, to_account, amount) VALUES (source, target, much)
        RETURNING id INTO made;
    UPDATE ledger_accounts SET balance = balance - much, version = version + 1 WHERE id = source
        RETURNING balance, version INTO seen;
    INSERT INTO ledger_entries (account, transfer, amount, balance_before, balance_after, version)
        VALUES (source, made, -much, seen.balance + much, seen.balance, seen.version);
    UPDATE ledger_accounts SET balance = balance + much, version = version + 1 WHERE id = target
        RETURNING balance, version INTO seen;
    INSERT INTO ledger_entries (account, transfer, amount, balance_before, balance_after, version)
        VALUES (target, made, much, seen.balance - much, seen.balance, seen.version);
    RETURN made;
END $$;

CREATE FUNCTION settle(held bigint, available bigint, house bigint, cost bigint, rest bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM ledger_accounts WHERE id IN (held, available, house) ORDER BY id FOR UPDATE;
    PERFORM move(held, house, cost);
    PERFORM move(held, available, rest);
END $$;
"""
#: A customer has two accounts: available (10 c) and held (10 c + 1) money. Revenue accounts (houses) are 1 to 9.
SCRIPT = f"""
\\set customer random(1, :customers)
\\set house random(1, :houses)
SELECT move(10 * :customer, 10 * :customer + 1, {HOLD});
SELECT settle(10 * :customer + 1, 10 * :customer, :house, {COST}, {HOLD - COST});
"""


def prepare_theirs(url: str, load: Load) -> None:
    """Create the same customers, and nine revenue accounts to spread the load."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(SCHEMA)
        db.execute("INSERT INTO ledger_accounts SELECT n, 0, 0, true FROM generate_series(1, 9) AS n")
        db.execute(
            "INSERT INTO ledger_accounts SELECT 10 * n + k, (1 - k) * %s::bigint FROM generate_series(1, %s) AS n,"
            " generate_series(0, 1) AS k",
            (FUNDS, load.accounts),
        )


def run_theirs(pgbench: str, url: str, load: Load, *, connections: int, houses: int) -> Figures:
    """Run pgbench, whose client costs next to nothing: every function call is a transaction of its own.

    Sequential scans are off, as in our writer: a plan made on an empty table would slow every foreign key.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "pair.sql"
        script.write_text(SCRIPT)
        command = [
            pgbench, "--no-vacuum", "--protocol=prepared", f"--client={connections}", f"--jobs={load.processes}",
            f"--time={max(1, round(load.seconds))}", f"--define=customers={load.accounts}",
            f"--define=houses={houses}", f"--file={script}", f"{url}?options=-c%20enable_seqscan%3Doff",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=load.seconds + 60)
    found = re.search(r"transactions actually processed: (\d+)", done.stdout)
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    assert found, done.stdout
    assert failed is None or failed[1] == "0", done.stdout
    return Figures(int(found[1]), max(1, round(load.seconds)), 2 * int(found[1]))
