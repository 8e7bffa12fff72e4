"""Send every notification of both providers twenty times, shuffled and with forgeries: credited and invoiced once."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from minitoolai.storage.selling import invoices
from minitoolai.storage.tables import users
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import epay as epay_support
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.epay import Epay
from tests.support.server import ServerProcess
from tests.support.stripe import KEY, SECRET, Stripe

DOLLAR = 1_000_000_000
PAID = (5, 7, 11)
TIMES = 20
KINDS = ("checkout.session.completed", "checkout.session.async_payment_succeeded")


@dataclass
class Storm:
    """Counts of one storm."""

    storms: int = 0
    events: int = 0
    forged: int = 0
    violations: list[str] = field(default_factory=list)


def environment(stripe: Stripe) -> dict[str, str]:
    """Return the settings that make a server use this fake Stripe."""
    return {
        "MINITOOLAI_STRIPE_SECRET_KEY": KEY,
        "MINITOOLAI_STRIPE_WEBHOOK_SECRET": SECRET,
        "MINITOOLAI_STRIPE_API_URL": stripe.url,
        "MINITOOLAI_TRIES_FACTOR": "1000",
    }


def checkout(member: Visitor, amount: str = "20", provider: str = "") -> str:
    """Go to checkout and return the session's ID."""
    member.open("/topup")
    member.submit("/topup/card", follow=False, amount=amount, provider=provider)
    assert member.page.status_code == 303, member.page.text
    return member.page.headers["location"].rsplit("/", 1)[1]


def tell(server: ServerProcess, body: bytes, signature: str | None = None) -> int:
    """Send one webhook, correctly signed by default, and return the status."""
    headers = {"stripe-signature": Stripe.sign(body) if signature is None else signature}
    return requests.post(server.url + "/webhooks/stripe", data=body, headers=headers, timeout=30).status_code


def tell_epay(server: ServerProcess, fields: dict[str, str]) -> int:
    """Send one notification of the EPay-style provider and return the status."""
    return requests.get(f"{server.url}/webhooks/payments/epay", params=fields, timeout=30).status_code


def storm(
    member: Visitor, email: str, stripe: Stripe, draw: random.Random, tally: Storm, epay: Epay | None = None
) -> None:
    """Make three payments through each provider and send every notification about them, genuine and forged."""
    server, events, lies = member.server, list[Any](), list[Any]()
    paid = list(PAID)
    for number in _epay_orders(member, epay):
        assert epay is not None
        paid.append(int(epay.orders[number]["money"].split(".")[0]) // 10)
        epay.pay(number)
        right = epay.notification(number)
        events += [right] * TIMES
        lies += [right | {"money": "99999.00"}, right | {"sign": "0" * 32}, epay.notification(number, key="guessed")]
        lies += [epay.notification(number, money="1.00"), epay.notification(number, pid="1002"), right | {"sign": ""}]
    for session in [checkout(member, str(amount), "stripe") for amount in PAID]:
        stripe.pay(session)
        for kind in KINDS:
            body = stripe.event(kind, stripe.sessions[session])
            events += [(body, Stripe.sign(body))] * TIMES
            lie = stripe.event(kind, stripe.sessions[session] | {"amount_total": 10**8})
            lies += [(lie, Stripe.sign(lie, secret="whsec_forged")), (lie, Stripe.sign(lie, age_s=301)), (lie, "")]
            lies += [(lie, Stripe.sign(body)), (lie, "t=1,v1=00"), (lie, Stripe.sign(body).replace("v1=", "v0="))]
    said = events + lies
    draw.shuffle(said)
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(
            pool.map(lambda one: tell_epay(server, one) if isinstance(one, dict) else tell(server, *one), said)
        )
    tally.storms += 1
    tally.events += len(events)
    tally.forged += len(lies)
    if statuses != {200: len(events), 400: len(lies)}:
        tally.violations.append(f"answers: {dict(statuses)}")
    account_id = server.read(lambda c: users.find_user(c, email)[0].account_id)
    rows = server.read(lambda c: c.execute("SELECT kind, amount FROM transfers WHERE credit = ?", (account_id,)))
    if sorted(rows) != [("payment", n * DOLLAR) for n in sorted(paid)]:
        tally.violations.append(f"credited: {rows}")
    issued = server.read(lambda c: invoices.invoices_of_account(c, account_id, 99))
    if sorted(row.signed for row in issued) != [n * DOLLAR for n in sorted(paid)]:
        tally.violations.append(f"invoiced: {[(row.name, row.signed) for row in issued]}")
    tally.violations += [f"{name}: {found}" for name, found in server.read(broken_invariants).items()]


def _epay_orders(member: Visitor, epay: Epay | None) -> list[str]:
    """Begin three payments at 10.00 CNY for a dollar."""
    orders = []
    for amount in PAID if epay is not None else ():
        assert epay is not None
        member.open("/topup")
        member.submit("/topup/card", follow=False, amount=str(amount), provider="epay")
        orders.append(epay.accept(member.page.headers["location"]))
    return orders


def run_storms(folder: Path, storms: int, *, seed: int = 1, url: str = "") -> Storm:
    """Run this many storms on one server; with `url` on PostgreSQL."""
    draw, tally = random.Random(seed), Storm()
    with Stripe() as stripe, Epay() as epay:
        env = environment(stripe) | epay_support.environment(epay) | {"MINITOOLAI_EPAY_RATE": "10"}
        env |= {"MINITOOLAI_DATABASE_URL": url} if url else {}
        with ServerProcess(folder, catalog=CATALOG, env=env) as server:
            for number in range(storms):
                email = f"storm{number}@example.com"
                storm(Visitor(server).sign_up(email), email, stripe, draw, tally, epay)
    return tally
