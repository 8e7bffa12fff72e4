"""Fill a server with a hundred thousand generations of one account, from the last ninety days."""

from __future__ import annotations

import statistics
import time

from minitoolai.billing import payments
from minitoolai.core.clock import SystemClock, first_id_at
from minitoolai.core.money import parse_dollars
from minitoolai.storage import accounts, reports, users
from minitoolai.storage.database import Connection
from minitoolai.storage.reports import MS_PER_DAY
from tests.support.browse import Visitor
from tests.support.history import count_usage
from tests.support.server import ServerProcess

EMAIL = "crowded@example.com"
GENERATIONS = 100_000
PEOPLE = 5_000
ACTIONS = 1_000
KEYS = 60
COST = 1_000
LOOKS = 31
OPEN = ("/", "/docs", "/prices", "/signup", "/signin", "/reset", "/nothing")
#: Pages for signed-in users; ACCOUNT and KEY stand for IDs.
CLOSED = (
    "/keys", "/keys?page=1", "/keys/KEY", "/balance", "/balance?below=50000&until=MIDDLE", "/usage?days=7",
    "/usage?days=30", "/usage?days=90", "/usage/usage.csv?days=90", "/usage/requests", "/studio", "/studio/image",
    "/studio/speech", "/account", "/account/second-factor", "/topup", "/docs", "/admin", "/admin/accounts",
    "/admin/accounts?q=9@example", "/admin/accounts/ACCOUNT", "/admin/jobs", "/admin/actions",
)  # fmt: skip


def crowd(server: ServerProcess) -> Visitor:
    """Sign in the user with all that usage, an admin among thousands of accounts."""
    member = Visitor(server).sign_up(EMAIL)
    server.command("account", "admin", EMAIL)
    server.write(_fill)
    return member


def _fill(connection: Connection) -> None:
    clock = SystemClock()
    account_id = users.find_user(connection, EMAIL)[0].account_id  # type: ignore[index]
    keys = [f"key{n:09d}" for n in range(KEYS)]
    rules = '{"budget_daily":1000000000,"budget_total":9000000000,"allow_ip":["192.0.2.0/24"],"models":["quick"]}'
    connection.execute_many(
        "INSERT INTO api_keys (id, account_id, name, secret_hmac, created_ms, rules) VALUES (?, ?, ?, ?, ?, ?)",
        [(key, account_id, f"Program {n}", key.encode(), n, rules) for n, key in enumerate(keys)],
    )
    payments.grant(connection, clock, account_id, parse_dollars("50.00"), reason="test")
    _work(connection, clock, account_id, keys)
    for n in range(PEOPLE):
        accounts.create_account(connection, f"person{n}@example.com", None, clock.now_ms())
    done = [
        (clock.new_id(), account_id, account_id, "grant", 10**9, "A reason", clock.now_ms()) for _ in range(ACTIONS)
    ]
    connection.execute_many(
        f"INSERT INTO admin_actions ({reports.ACTION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        done,
    )


def _work(connection: Connection, clock: SystemClock, account_id: int, keys: list[str]) -> None:
    start, now_ms = parse_dollars("50.00"), clock.now_ms()
    models = [("chat", "quick"), ("chat", "endless"), ("image", "painter"), ("speech", "teller")]
    holds, generations, transfers = [], [], []
    for n in range(GENERATIONS):
        kind, model = models[n % 4]
        at_ms, key = now_ms - 90 * MS_PER_DAY + n * (90 * MS_PER_DAY // GENERATIONS), keys[n % 5]
        # IDs contain the time, as those of real requests do.
        name = first_id_at(at_ms) + n
        holds.append((name, account_id, key, kind, COST, COST))
        generations.append((name, account_id, key, kind, model, "fake", COST, at_ms, at_ms + 900))
        transfers.append((account_id, COST, name, n + 2, start - (n + 1) * COST, at_ms + 900))
    connection.execute_many(
        "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled) VALUES (?, ?, ?, ?, ?, 'posted', ?)",
        holds,
    )
    connection.execute_many(
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " input_units, output_units, cost, created_ms, finished_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, 'succeeded', 1, 1, 500, 500, ?, ?, ?)",
        generations,
    )
    connection.execute_many(
        "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after, created_ms)"
        " VALUES ('usage', ?, 1, ?, ?, ?, ?, ?)",
        transfers,
    )
    connection.execute(
        "UPDATE accounts SET posted = ?, version = ? WHERE id = ?",
        (start - GENERATIONS * COST, GENERATIONS + 1, account_id),
    )
    count_usage(connection, account_id)


def address(member: Visitor, path: str) -> str:
    """Return the path with the IDs of this account filled in."""
    if "ACCOUNT" in path:
        found = member.server.read(lambda c: users.find_user(c, EMAIL))
        path = path.replace("ACCOUNT", str(found[0].account_id))
    middle = SystemClock().now_ms() - 45 * MS_PER_DAY
    return path.replace("KEY", f"key{7:09d}").replace("MIDDLE", str(middle))


def median_ms(visitor: Visitor, path: str) -> float:
    """Return the median wall-clock time over loopback, from request to last byte, after a first view."""
    took = []
    for n in range(LOOKS + 1):
        begun = time.perf_counter()
        assert visitor.open(path).status_code == (404 if path == "/nothing" else 200), path
        took.append((time.perf_counter() - begun) * 1000 if n else 0.0)
    return statistics.median(took[1:])
