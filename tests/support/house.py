"""A server with somebody who has used it for a month: for pictures of pages and for looking at them with axe."""

from __future__ import annotations

import random
import re

from playwright.sync_api import BrowserContext

from minitoolai.billing import payments
from minitoolai.core.clock import MS_PER_DAY, SystemClock, generation_name
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.requests import LogFilter, list_requests
from minitoolai.storage.tables import accounts, users
from minitoolai.storage.tables import payments as stored
from tests.support.browse import Visitor
from tests.support.history import count_traffic, count_usage
from tests.support.server import ServerProcess

EMAIL = "ada@example.com"
OPEN = (
    "/",
    "/docs",
    "/docs/errors",
    "/limits",
    "/changelog",
    "/reference",
    "/reference/post-v1-messages",
    "/models",
    "/prices",
    "/status",
    "/search",
    "/check",
    "/signup",
    "/signin",
    "/reset",
)
#: Of people who are signed in; the account's number stands where # is, a key's where + is, a request's where ~ is.
CLOSED = (
    "/keys", "/keys/+", "/studio", "/studio/image", "/studio/speech", "/studio/transcribe", "/studio/images",
    "/studio/prompts",
    "/usage", "/usage/requests", "/usage/requests/~", "/usage/bodies", "/usage/export",
    "/balance", "/topup", "/invoices", "/account/notices",
    "/admin/invoices",
    "/account", "/account/second-factor", "/account/passkeys", "/team", "/team/log", "/team/accounts",
    "/admin", "/admin/accounts", "/admin/accounts/#", "/admin/jobs",
    "/admin/actions", "/admin/catalog", "/admin/dashboard", "/admin/requests", "/admin/requests/~", "/admin/engines",
    "/admin/accounts/#/statement", "/admin/accounts/#/payments", "/admin/accounts/#/keys",
    "/admin/vouchers", "/admin/coupons", "/plans",
    "/admin/accounts/#/correct/suspend", "/admin/accounts/#/correct/reverse",
    "/admin/accounts/#/correct/refund",
)  # fmt: skip
MODELS = (("chat", "quick", 700, 240), ("image", "painter", 0, 1), ("speech", "teller", 420, 0))
UNIT = {"chat": 600, "image": 1_500_000, "speech": 15_000}


def furnish(server: ServerProcess) -> Visitor:
    """Somebody with keys, money and usage, who is an admin, too."""
    member = Visitor(server).sign_up(EMAIL)
    server.command("account", "admin", EMAIL)
    account_id = number_of(server)
    server.write(lambda c: payments.grant(c, SystemClock(), account_id, 25 * 10**9, reason="Welcome"))
    names = []
    for name in ("laptop", "web shop"):
        member.open("/keys")
        found = re.search(r"sk-mt-(\w{12})-", member.submit("/keys", name=name).text)
        assert found
        names.append(found[1])
    server.write(lambda c: _use(c, account_id, names))
    server.write(lambda c: _fail(c, account_id, names[0]))
    server.write(count_traffic)
    server.write(lambda c: _pay(c, account_id))
    member.open(f"/admin/accounts/{account_id}")
    member.submit("/grant", amount="10.00", note="For the broken picture of Tuesday")
    member.open(f"/admin/accounts/{account_id}")
    member.submit("/note", text="Called on Monday: wants an invoice by post.\nSend it to the branch in Izmir.")
    return member


def _use(connection: Connection, account_id: int, keys: list[str]) -> None:
    """A month of work, through tables: settled, paid, and in the right order."""
    dice, clock = random.Random(7), SystemClock()
    now_ms = clock.now_ms()
    posted, version = connection.execute("SELECT posted, version FROM accounts WHERE id = ?", (account_id,))[0]
    moments = sorted(now_ms - int(dice.random() ** 1.5 * 29 * MS_PER_DAY) - 60_000 for _ in range(260))
    for at_ms in moments:
        kind, model, most_in, most_out = dice.choices(MODELS, (6, 3, 2))[0]
        units = dice.randint(most_in // 3, most_in), dice.randint(most_out // 3 + (kind == "image"), most_out)
        cost, name, key = max(sum(units) * UNIT[kind], 1), clock.new_id(), dice.choice(keys)
        posted, version = posted - cost, version + 1
        connection.execute(
            "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled)"
            " VALUES (?, ?, ?, ?, ?, 'posted', ?)",
            (name, account_id, key, kind, cost, cost),
        )
        connection.execute(
            "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
            " input_units, output_units, cost, created_ms, finished_ms)"
            " VALUES (?, ?, ?, ?, ?, 'quick', 'succeeded', 1, 1, ?, ?, ?, ?, ?)",
            (name, account_id, key, kind, model, *units, cost, at_ms, at_ms + dice.randint(200, 4000)),
        )
        connection.execute(
            "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after, created_ms)"
            " VALUES ('usage', ?, 1, ?, ?, ?, ?, ?)",
            (account_id, cost, name, version, posted, at_ms),
        )
    connection.execute("UPDATE accounts SET posted = ?, version = ? WHERE id = ?", (posted, version, account_id))
    count_usage(connection, account_id)


def _fail(connection: Connection, account_id: int, key: str) -> None:
    """Pictures that were not drawn: nothing was paid."""
    clock = SystemClock()
    for error in ("the worker died while drawing, three times", "the painter is out of memory at 1344 × 1344"):
        name, now_ms = clock.new_id(), clock.now_ms()
        connection.execute(
            "INSERT INTO holds (id, account_id, key_id, kind, amount, state)"
            " VALUES (?, ?, ?, 'image', 1500000, 'voided')",
            (name, account_id, key),
        )
        connection.execute(
            "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
            " created_ms, finished_ms, worker, error_code, error)"
            " VALUES (?, ?, ?, 'image', 'painter', 'quick', 'failed', 0, 1500000, ?, ?, 'painter-host-2', ?, ?)",
            (name, account_id, key, now_ms - 90_000, now_ms, "upstream_error", error),
        )
    count_usage(connection, account_id)


def _pay(connection: Connection, account_id: int) -> None:
    """Add two payments that were never completed: they move nothing."""
    clock = SystemClock()
    for amount in (10, 25):
        number = clock.new_id()
        stored.insert_payment(connection, number, account_id, amount * 10**9, clock.now_ms())
        stored.set_provider_ref(connection, number, f"cs_test_{number}", clock.now_ms())


def number_of(server: ServerProcess) -> int:
    """The account of whoever lives here."""
    return int(server.read(lambda c: users.find_user(c, EMAIL))[0].account_id)


def pages(server: ServerProcess) -> list[str]:
    """Every page there is, with the number in it."""
    return [*OPEN, *(address(server, path) for path in CLOSED)]


def address(server: ServerProcess, path: str) -> str:
    """A path of CLOSED with the numbers of whoever lives here."""
    if not set(path) & set("#+~"):
        return path
    account_id = number_of(server)
    key = server.read(lambda c: accounts.keys_of(c, account_id))[0].id
    request = server.read(lambda c: list_requests(c, LogFilter(account_id), 1)).rows[0].id
    return path.replace("#", str(account_id)).replace("+", key).replace("~", generation_name(request))


def enter(context: BrowserContext, member: Visitor) -> None:
    """Signed in by the member's cookies."""
    names = ("session", "browser")
    context.add_cookies([{"name": n, "value": member.cookies[n], "url": member.server.url} for n in names])
