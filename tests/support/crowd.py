"""Fill a server with a hundred thousand generations of one account, from the last ninety days."""

from __future__ import annotations

import statistics
import time

from requests import Response

from minitoolai.billing import corrections, payments
from minitoolai.core.clock import MS_PER_DAY, SystemClock, first_id_at, generation_name
from minitoolai.core.models import Voucher
from minitoolai.core.money import parse_dollars
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.requests import LogFilter, list_requests
from minitoolai.storage.tables import accounts, reports, users
from minitoolai.storage.tables import payments as stored_payments
from tests.support.browse import Visitor
from tests.support.history import count_traffic, count_usage
from tests.support.server import ServerProcess

EMAIL = "crowded@example.com"
GENERATIONS = 100_000
PEOPLE = 5_000
ACTIONS = 1_000
KEYS = 60
VOUCHERS = 2_000
REFUNDS = 300
COST = 1_000
LOOKS = 31
OPEN = ("/", "/docs", "/prices", "/signup", "/signin", "/reset", "/nothing")
#: Pages for signed-in users; ACCOUNT and KEY stand for IDs.
CLOSED = (
    "/keys", "/keys?page=1", "/keys/KEY", "/balance", "/balance?below=50000&until=MIDDLE", "/usage?days=7",
    "/usage?days=30", "/usage?days=90", "/usage/usage.csv?days=90", "/usage/requests",
    "/usage/requests?state=failed", "/usage/requests?model=nothing&kind=chat", "/usage/requests/REQUEST",
    "/studio", "/studio/image",
    "/studio/speech", "/studio/transcribe", "/studio/images", "/studio/prompts", "/limits", "/changelog", "/account",
    "/account/second-factor", "/account/passkeys", "/usage/bodies", "/usage/export", "/team",
    "/team/log", "/team/accounts", "/topup", "/invoices", "/docs",
    "/admin", "/admin/accounts",
    "/admin/accounts?q=9@example", "/admin/accounts/ACCOUNT", "/admin/jobs", "/admin/actions", "/admin/catalog",
    "/admin/vouchers", "/admin/coupons", "/admin/invoices", "/account/notices", "/plans",
    "/admin/accounts/ACCOUNT/correct/suspend", "/admin/accounts/ACCOUNT/correct/reverse",
    "/admin/accounts/ACCOUNT/correct/refund",
    "/admin/dashboard", "/admin/dashboard?days=90&by=customer", "/admin/dashboard/report.csv?days=90&by=engine",
    "/admin/requests", "/admin/requests?state=failed", "/admin/requests?account=ACCOUNT&kind=image",
    "/admin/requests/REQUEST", "/admin/engines", "/admin/accounts/ACCOUNT/statement",
    "/admin/accounts/ACCOUNT/payments", "/admin/accounts/ACCOUNT/keys",
)  # fmt: skip

#: More addresses of the same pages: every filter, alone and together, those that find nothing, and pages far back.
FILTERED = (
    "/usage/requests?until=MIDDLE&below=9000000000000000000", "/keys?page=0", "/admin/accounts?q=ACCOUNT",
    "/admin/accounts?q=nobody-has-this", "/admin/accounts?q=person4999@example.com", "/admin/accounts?below=1200",
    "/admin/search?q=nobody-has-this", "/admin/search?q=person4999@example.com", "/admin/search?q=REQUEST",
    "/admin/search?q=sk-mt-key0000", "/admin/search?q=pi_nothing",
    "/admin/accounts/OTHER", "/admin/accounts/OTHER/statement",
    "/admin/accounts/OTHER/statement?below=5500&until=MIDDLE",
    "/admin/accounts/ACCOUNT/statement?below=50000&until=MIDDLE", "/admin/accounts/ACCOUNT?below=9000000000000000",
    "/admin/accounts/ACCOUNT/keys?page=1", "/admin/accounts/ACCOUNT/payments?below=9000000000000000",
    "/admin/actions?below=9000000000000000", "/admin/vouchers?batch=b7", "/admin/vouchers?batch=nothing",
    *(f"/admin/requests?{what}" for what in (
        "until=MIDDLE&below=MIDDLE_ID", "model=llama", "model=nothing", "kind=speech", "kind=transcription",
        "state=cancelled", "state=queued", "error=upstream_error", "model=quick&kind=chat&state=failed&error=x",
        "model=nothing&until=MIDDLE&below=MIDDLE_ID", "account=ACCOUNT", "account=OTHER", "account=0",
        "account=crowded@example.com", "account=nobody@example.com", "account=OTHER&until=MIDDLE&below=MIDDLE_ID",
        *(f"account={who}&{more}" for who in ("ACCOUNT", "OTHER") for more in (
            "kind=image", "kind=transcription", "model=llama", "model=nothing", "state=failed", "error=upstream_error",
            "model=nothing&kind=chat&state=failed&error=x", "model=nothing&until=MIDDLE&below=MIDDLE_ID",
        )),
    )),
    *(f"/admin/dashboard?days=90&by={by}{only}" for by in ("model", "engine", "customer") for only in (
        "", "&customer=ACCOUNT", "&customer=OTHER", "&model=llama", "&engine=fake",
        "&customer=OTHER&model=llama&engine=fake",
    )),
    "/admin/dashboard?days=90&by=customer&after=0", "/admin/dashboard?days=90&by=customer&after=10002500",
    "/admin/dashboard?days=90&by=customer&model=quick&after=0",
    "/admin/dashboard?days=1", "/admin/dashboard?days=7", "/admin/dashboard?days=30",
)  # fmt: skip
#: Of the accounts that bench/growth_fill.py makes.
OTHER = "growth7@example.com"


def crowd(server: ServerProcess) -> Visitor:
    """Sign in the user with all that usage, an admin among thousands of accounts."""
    member = enter(server)
    server.write(fill)
    return member


def enter(server: ServerProcess) -> Visitor:
    """Sign in the user, as an admin."""
    member = Visitor(server).sign_up(EMAIL)
    server.command("account", "admin", EMAIL)
    return member


def fill(connection: Connection) -> None:
    """Write the usage of the user, and the other accounts."""
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
        f"INSERT INTO admin_actions ({reports.ACTION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
        done,
    )
    for n in range(VOUCHERS):
        made = Voucher(f"{n:04d}"[-4:], 5 * 10**9, "Fair", clock.now_ms(), None, batch=f"b{n % 20}")
        stored_payments.insert_voucher(connection, n.to_bytes(32, "big"), made)
    for row in list_requests(connection, LogFilter(account_id), REFUNDS).rows:
        corrections.refund_charge(connection, clock, account_id, row.id, COST // 2, reason="A reason", once="crowd")


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
    count_traffic(connection)


def address(member: Visitor, path: str) -> str:
    """Return the path with the IDs of this account filled in."""
    if "ACCOUNT" in path:
        found = member.server.read(lambda c: users.find_user(c, EMAIL))
        path = path.replace("ACCOUNT", str(found[0].account_id))
    middle = SystemClock().now_ms() - 45 * MS_PER_DAY
    if "OTHER" in path:
        path = path.replace("OTHER", str(member.server.read(lambda c: users.find_user(c, OTHER))[0].account_id))
    if "REQUEST" in path:
        newest = member.server.read(lambda c: list_requests(c, LogFilter(), 1)).rows[0].id
        path = path.replace("REQUEST", generation_name(newest))
    path = path.replace("MIDDLE_ID", str(first_id_at(middle)))
    return path.replace("KEY", f"key{7:09d}").replace("MIDDLE", str(middle))


def look(visitor: Visitor, path: str) -> Response:
    """Open a page. The search is a form."""
    if not path.startswith("/admin/search?q="):
        return visitor.open(path)
    return visitor.submit("/admin/search", follow=False, q=path.partition("=")[2])


def median_ms(visitor: Visitor, path: str, views: int = LOOKS) -> float:
    """Return the median wall-clock time over loopback, from request to last byte, after a first view."""
    took = []
    if path.startswith("/admin/search"):
        visitor.open("/admin")
        form = visitor.page
    for n in range(views + 1):
        if path.startswith("/admin/search"):
            visitor.page = form
        begun = time.perf_counter()
        assert look(visitor, path).status_code in ((404,) if path == "/nothing" else (200, 303)), path
        took.append((time.perf_counter() - begun) * 1000 if n else 0.0)
    return statistics.median(took[1:])
