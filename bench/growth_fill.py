"""Fill a database with a long history by a few large statements. The books add up, and its days are closed."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import dataclass

from minitoolai.billing.audit_days import next_closable, read_day
from minitoolai.core.clock import MS_PER_DAY, first_id_at
from minitoolai.ledger.types import FUNDING, REVENUE
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import accounts, audit

ACCOUNTS = 100
DAYS = 100
PRICE = 9
#: Generations of an account between two of its credits.
CREDIT_EVERY = 1_000
OPENING = 10**12
MODELS = ("gpt-4o-mini", "claude-3-haiku", "llama")
#: Generations in one transaction.
PIECE = 200_000
_ID_STEP = first_id_at(1_700_000_000_001)


@dataclass(frozen=True)
class History:
    """A filled database: the first of its customers, and the time between which they worked."""

    first_account: int
    generations: int
    from_ms: int
    until_ms: int


def fill_new(database: Database, generations: int, now_ms: int) -> History:
    """Fill a new database as `fill` does, SQLite without waiting for the disk, and say how long it took."""
    with closing(database.connect()) as connection:
        if database.name == "sqlite":
            for pragma in ("synchronous=OFF", "foreign_keys=OFF", "cache_size=-400000", "wal_autocheckpoint=20000"):
                connection.execute(f"PRAGMA {pragma}")
        began_s = time.monotonic()
        history = fill(connection, generations, now_ms)
        note(f"{generations:,} generations filled and closed in {time.monotonic() - began_s:.0f} s")
        if database.name == "sqlite":
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return history


def note(text: str) -> None:
    """Tell the user how far the bench is."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fill(connection: Connection, generations: int, now_ms: int, *, close: bool = True) -> History:
    """Write the history of ACCOUNTS customers over DAYS days, up to two hours ago.

    `close`: close its days. Without that, more can be written into them.
    """
    until_ms = now_ms - 7_200_000
    from_ms = until_ms - DAYS * MS_PER_DAY
    with connection.transaction():
        accounts.ensure_system_accounts(connection, from_ms)
        made = [accounts.create_account(connection, f"growth{n}@example.com", None, from_ms) for n in range(ACCOUNTS)]
    assert made == list(range(made[0], made[0] + ACCOUNTS)), "nothing else creates accounts"
    history = History(made[0], generations, from_ms, until_ms)
    for begin in range(0, generations, PIECE):
        _fill_piece(connection, history, begin, min(begin + PIECE, generations))
    _add_credits_and_sums(connection, history)
    if close:
        close_days(connection, now_ms)
    return history


def _numbers(connection: Connection, begin: int, end: int) -> str:
    """Return a FROM clause with the numbers `n` from `begin` up to but not including `end`."""
    if connection.skip_locked:
        return f"generate_series({begin}::bigint, {end - 1}) AS numbers(n)"
    return (
        f"(WITH RECURSIVE numbers(n) AS (SELECT {begin} UNION ALL SELECT n + 1 FROM numbers WHERE n < {end - 1})"
        " SELECT n FROM numbers) AS numbers"
    )


def _fill_piece(connection: Connection, history: History, begin: int, end: int) -> None:
    span_ms = history.until_ms - history.from_ms
    created = f"({history.from_ms} + n * {span_ms} / {history.generations})"
    # Of the generations of an account, the k-th (from 0) comes after 1 + k / CREDIT_EVERY credits.
    k = f"(n / {ACCOUNTS})"
    work = (
        f"(SELECT n, {created} AS at_ms, ({created} - 1700000000000) * {_ID_STEP} + n % {_ID_STEP} AS id,"
        f" {history.first_account} + n % {ACCOUNTS} AS account, {k} AS k FROM {_numbers(connection, begin, end)}) AS w"
    )
    model = f"CASE n % 3 WHEN 0 THEN '{MODELS[0]}' WHEN 1 THEN '{MODELS[1]}' ELSE '{MODELS[2]}' END"
    with connection.transaction():
        connection.execute(
            "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled)"
            f" SELECT id, account, 'key000000001', 'chat', {PRICE}, 'posted', {PRICE} FROM {work}"
        )
        connection.execute(
            "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
            " input_units, output_units, cost, created_ms, first_token_ms, finished_ms, delivered_bytes)"
            f" SELECT id, account, 'key000000001', 'chat', {model}, 'fake', 'succeeded', 1, 1, 3, 6, {PRICE}, at_ms,"
            f" at_ms + 200, at_ms + 500, 30 FROM {work}"
        )
        connection.execute(
            "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after, created_ms)"
            f" SELECT 'usage', account, {REVENUE}, {PRICE}, id, k + k / {CREDIT_EVERY} + 2,"
            f" {OPENING} + (k / {CREDIT_EVERY} + 1) * {PRICE * CREDIT_EVERY} - (k + 1) * {PRICE}, at_ms + 500"
            f" FROM {work}"
        )


def _add_credits_and_sums(connection: Connection, history: History) -> None:
    each = history.generations // ACCOUNTS
    credits = -(-each // CREDIT_EVERY)
    span_ms = history.until_ms - history.from_ms
    block = PRICE * CREDIT_EVERY
    rows = [
        (account, block + (OPENING if number == 0 else 0), f"growth:{account}:{number}")
        + (number * (CREDIT_EVERY + 1) + 1, OPENING + block)
        + (history.from_ms + number * CREDIT_EVERY * ACCOUNTS * span_ms // history.generations,)
        for account in range(history.first_account, history.first_account + ACCOUNTS)
        for number in range(credits)
    ]
    with connection.transaction():
        connection.execute_many(
            "INSERT INTO transfers (kind, debit, credit, amount, external_ref, account_version, balance_after,"
            " created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [("grant", FUNDING, *row) for row in rows],
        )
        posted = OPENING + credits * block - each * PRICE
        connection.execute(
            "UPDATE accounts SET posted = ?, version = ? WHERE is_system = 0 AND id >= ?",
            (posted, each + credits, history.first_account),
        )
        connection.execute(
            "INSERT INTO usage_days (account_id, day, kind, model, key_id, requests, input_units, output_units, cost,"
            f" purchase) SELECT account_id, created_ms / {MS_PER_DAY}, kind, model, key_id, count(*), sum(input_units),"
            f" sum(output_units), sum(cost), 0 FROM generations"
            f" GROUP BY account_id, created_ms / {MS_PER_DAY}, kind, model, key_id"
        )
    if connection.skip_locked:
        connection.execute("VACUUM ANALYZE")


def close_days(connection: Connection, now_ms: int) -> None:
    """Close every day that can be, as a server does in the background."""
    while (following := next_closable(connection, now_ms)) is not None:
        day, before = following
        reader = read_day(connection, day)
        assert not reader.wrong, reader.wrong[:3]
        assert not reader.different, reader.different[:3]
        with connection.transaction():
            audit.insert_closed(connection, reader.closed(before), reader.budgets, now_ms)
