"""Fill an account with a long history in seconds: finished requests, their holds and transfers. The books add up."""

from __future__ import annotations

from minitoolai.core.clock import first_id_at
from minitoolai.storage import usage_days
from minitoolai.storage.database import Connection

MODELS = ("gpt-4o-mini", "claude-3-haiku", "=llama")
PRICE = 9
#: Every so many requests fail and cost nothing.
FREE_EVERY = 10
ROWS_AT_ONCE = 20_000


def seed_history(
    connection: Connection,
    account_id: int,
    requests: int,
    *,
    first_ms: int,
    until_ms: int,
    key_id: str = "key000000001",
    keys: int = 2,
) -> None:
    """Add requests at even distances in time. The account needs PRICE nano-dollars for each."""
    (posted, version) = connection.execute("SELECT posted, version FROM accounts WHERE id = ?", (account_id,))[0]
    step, first = (until_ms - first_ms) / requests, first_id_at(first_ms)
    for begin in range(0, requests, ROWS_AT_ONCE):
        numbers = range(begin, min(begin + ROWS_AT_ONCE, requests))
        paid = [n for n in numbers if n % FREE_EVERY]
        ids = {n: first_id_at(first_ms + int(n * step)) + account_id % 1000 * 1000 + n % 1000 for n in numbers}
        assert ids[numbers[0]] >= first
        with connection.transaction():
            _insert_work(connection, account_id, ids, {n: first_ms + int(n * step) for n in numbers}, key_id, keys)
            connection.execute_many(
                "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after,"
                " created_ms) VALUES ('usage', ?, 1, ?, ?, ?, ?, ?)",
                [
                    (account_id, PRICE, ids[n], version + i, posted - PRICE * i, first_ms + int(n * step) + 500)
                    for i, n in enumerate(paid, 1)
                ],
            )
            posted, version = posted - PRICE * len(paid), version + len(paid)
            connection.execute(
                "UPDATE accounts SET posted = ?, version = ? WHERE id = ?", (posted, version, account_id)
            )
    count_usage(connection, account_id)


def count_usage(connection: Connection, account_id: int) -> None:
    """Make the usage by day of an account agree with its generations, however these were written."""
    with connection.transaction():
        for day in usage_days.wrong_days(connection, account_id, 0, 2**30):
            usage_days.rebuild(connection, account_id, day)


def _insert_work(
    connection: Connection, account_id: int, ids: dict[int, int], times: dict[int, int], key_id: str, keys: int
) -> None:
    names = [f"{key_id[:-1]}{number}" for number in range(keys)]
    connection.execute_many(
        "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled) VALUES (?, ?, ?, 'chat', ?, ?, ?)",
        [
            (i, account_id, names[n % keys], PRICE, *(("posted", PRICE) if n % FREE_EVERY else ("voided", 0)))
            for n, i in ids.items()
        ],
    )
    connection.execute_many(
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " input_units, output_units, cost, created_ms, finished_ms)"
        " VALUES (?, ?, ?, 'chat', ?, 'e', ?, 1, 1, 3, 6, ?, ?, ?)",
        [
            (i, account_id, names[n % keys], MODELS[n % len(MODELS)])
            + ("succeeded" if n % FREE_EVERY else "failed", PRICE if n % FREE_EVERY else 0, times[n], times[n] + 500)
            for n, i in ids.items()
        ],
    )
