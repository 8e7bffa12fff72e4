"""Send every webhook twenty times, shuffled and mixed with forgeries: the account is credited once."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import requests

from minitoolai.storage import users
from minitoolai.storage.ledger import broken_invariants
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
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


def checkout(member: Visitor, amount: str = "20") -> str:
    """Go to checkout and return the session's ID."""
    member.open("/topup")
    member.submit("/topup/card", follow=False, amount=amount)
    assert member.page.status_code == 303, member.page.text
    return member.page.headers["location"].rsplit("/", 1)[1]


def tell(server: ServerProcess, body: bytes, signature: str | None = None) -> int:
    """Send one webhook, correctly signed by default, and return the status."""
    headers = {"stripe-signature": Stripe.sign(body) if signature is None else signature}
    return requests.post(server.url + "/webhooks/stripe", data=body, headers=headers, timeout=30).status_code


def storm(member: Visitor, email: str, stripe: Stripe, draw: random.Random, tally: Storm) -> None:
    """Make three payments and send every webhook about them, genuine and forged."""
    server, events, lies = member.server, [], []
    for session in [checkout(member, str(amount)) for amount in PAID]:
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
        statuses = Counter(pool.map(lambda sent: tell(server, *sent), said))
    tally.storms += 1
    tally.events += len(events)
    tally.forged += len(lies)
    if statuses != {200: len(events), 400: len(lies)}:
        tally.violations.append(f"answers: {dict(statuses)}")
    account_id = server.read(lambda c: users.find_user(c, email)[0].account_id)
    rows = server.read(lambda c: c.execute("SELECT kind, amount FROM transfers WHERE credit = ?", (account_id,)))
    if sorted(rows) != [("payment", n * DOLLAR) for n in PAID]:
        tally.violations.append(f"credited: {rows}")
    tally.violations += [f"{name}: {found}" for name, found in server.read(broken_invariants).items()]


def run_storms(folder: Path, storms: int, *, seed: int = 1, url: str = "") -> Storm:
    """Run this many storms on one server; with `url` on PostgreSQL."""
    draw, tally = random.Random(seed), Storm()
    with Stripe() as stripe:
        env = environment(stripe) | ({"MINITOOLAI_DATABASE_URL": url} if url else {})
        with ServerProcess(folder, catalog=CATALOG, env=env) as server:
            for number in range(storms):
                email = f"storm{number}@example.com"
                storm(Visitor(server).sign_up(email), email, stripe, draw, tally)
    return tally
