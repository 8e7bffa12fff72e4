"""Fake Stripe on loopback: the API calls that we make, per its API reference, and its webhook signatures.

The test pays, refunds and disputes sessions; `event` returns the webhook that Stripe would send.

    python -m tests.support.stripe 22001     serve on this port; whoever opens a checkout page has paid
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEY = "sk_test_standin"
SECRET = "whsec_standin"
_numbers = itertools.count(1)


class Stripe:
    """Serves as a context manager. `calls` lists (method, path, form) of every request."""

    def __init__(self, port: int = 0) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self.intents: dict[str, dict[str, Any]] = {}
        self.charges: dict[str, dict[str, Any]] = {}
        self.disputes: list[dict[str, Any]] = []
        self.refunds: list[dict[str, Any]] = []
        self.subscriptions: dict[str, dict[str, Any]] = {}
        self.invoices: dict[str, dict[str, Any]] = {}
        #: Events that the API lists, newest first. `event` adds each that it makes.
        self.events: list[dict[str, Any]] = []
        #: Off-session charges fail with this state: `declined` at once, `processing` until `settle_charge`.
        self.charges_are = "succeeded"
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        #: Customers who open a checkout page pay by a method that takes days.
        self.is_slow = False
        self.is_away = False
        self._answered: dict[str, dict[str, Any]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Stripe:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # ── what happens at Stripe ────────────────────────────────────────────────────────────────────────────

    def pay(self, session_id: str, *, confirmed: bool = True, currency: str = "usd") -> None:
        """Pay the session. With `confirmed=False`, by a method that takes days."""
        session = self.sessions[session_id]
        if session.get("mode") == "subscription":
            self._subscribe(session)
            return
        number = next(_numbers)
        charge = {
            "id": f"ch_{number}", "object": "charge", "amount": session["amount_total"], "amount_refunded": 0,
            "disputed": False, "refunded": False, "payment_intent": f"pi_{number}",
            "metadata": session["_intent_metadata"],
        }  # fmt: skip
        intent = {
            "id": f"pi_{number}", "object": "payment_intent", "metadata": session["_intent_metadata"],
            "status": "succeeded" if confirmed else "processing",
        }  # fmt: skip
        self.charges[charge["id"]] = charge
        self.intents[intent["id"]] = intent | {"latest_charge": charge["id"] if confirmed else None}
        session.update(status="complete", payment_status="paid" if confirmed else "unpaid", payment_intent=intent["id"])
        session.update(currency=currency)

    def _subscribe(self, session: dict[str, Any]) -> None:
        number = next(_numbers)
        subscription = {
            "id": f"sub_{number}", "object": "subscription", "status": "active", "cancel_at_period_end": False,
            "cancel_at": None, "metadata": session["_subscription_metadata"], "_cents": session["amount_total"],
        }  # fmt: skip
        self.subscriptions[subscription["id"]] = subscription
        session.update(status="complete", payment_status="paid", subscription=subscription["id"])
        self.renew(subscription["id"])

    def renew(
        self, subscription_id: str, *, succeeds: bool = True, cents: int | None = None, currency: str = "usd"
    ) -> dict[str, Any]:
        """Charge the next period of a subscription, and return its invoice."""
        subscription, number = self.subscriptions[subscription_id], next(_numbers)
        details = {"subscription": subscription_id, "metadata": subscription["metadata"]}
        invoice = {
            "id": f"in_{number}", "object": "invoice", "status": "open", "attempted": True, "amount_paid": 0,
            "amount_due": subscription["_cents"] if cents is None else cents, "currency": currency, "created": number,
            "parent": {"type": "subscription_details", "subscription_details": details},
            "payments": {"object": "list", "data": [], "has_more": False, "url": "/v1/invoice_payments"},
        }  # fmt: skip
        self.invoices[invoice["id"]] = invoice
        subscription["status"] = "active" if succeeds else "past_due"
        if succeeds:
            self.collect(invoice["id"])
        return invoice

    def collect(self, invoice_id: str) -> dict[str, Any]:
        """Let the charge of an invoice succeed, at once or at a later try."""
        invoice, number = self.invoices[invoice_id], next(_numbers)
        self.charges[f"ch_{number}"] = {
            "id": f"ch_{number}", "object": "charge", "amount": invoice["amount_due"], "amount_refunded": 0,
            "disputed": False, "refunded": False, "payment_intent": f"pi_{number}", "metadata": {},
        }  # fmt: skip
        self.intents[f"pi_{number}"] = {
            "id": f"pi_{number}", "object": "payment_intent", "metadata": {}, "status": "succeeded",
            "latest_charge": f"ch_{number}",
        }  # fmt: skip
        paid = {"id": f"inpay_{number}", "object": "invoice_payment", "status": "paid"}
        paid["payment"] = {"type": "payment_intent", "payment_intent": f"pi_{number}"}
        invoice["payments"]["data"].append(paid)
        invoice.update(status="paid", amount_paid=invoice["amount_due"])
        self.subscriptions[invoice["parent"]["subscription_details"]["subscription"]]["status"] = "active"
        return invoice

    def confirm(self, session_id: str) -> None:
        """Let the money of a slow payment method arrive."""
        session = self.sessions[session_id]
        session.update(payment_status="paid")
        charge = next(c for c in self.charges.values() if c["payment_intent"] == session["payment_intent"])
        self.intents[session["payment_intent"]].update(latest_charge=charge["id"], status="succeeded")

    def fail(self, session_id: str) -> None:
        """Let the debit of a slow payment method fail. The session stays complete and unpaid."""
        self.intents[self.sessions[session_id]["payment_intent"]]["status"] = "requires_payment_method"

    def refund(self, session_id: str, cents: int) -> dict[str, Any]:
        charge = self.charge(session_id)
        charge["amount_refunded"] += cents
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        refund = {
            "id": f"re_{next(_numbers)}", "object": "refund", "amount": cents, "status": "succeeded",
            "charge": charge["id"], "payment_intent": charge["payment_intent"],
        }  # fmt: skip
        self.refunds.append(refund)
        return refund

    def dispute(self, session_id: str, status: str = "needs_response") -> dict[str, Any]:
        charge = self.charge(session_id)
        charge["disputed"] = True
        dispute = {
            "id": f"dp_{next(_numbers)}", "object": "dispute", "amount": charge["amount"], "status": status,
            "charge": charge["id"], "payment_intent": charge["payment_intent"],
        }  # fmt: skip
        self.disputes.append(dispute)
        return dispute

    def charge(self, session_id: str) -> dict[str, Any]:
        return self.charges[self.intents[self.sessions[session_id]["payment_intent"]]["latest_charge"]]

    # ── events ────────────────────────────────────────────────────────────────────────────────────────────

    def event(self, kind: str, thing: dict[str, Any]) -> bytes:
        """Return the body of a webhook."""
        plain = {key: value for key, value in thing.items() if not key.startswith("_")}
        event = {
            "id": f"evt_{next(_numbers)}", "object": "event", "type": kind, "created": int(time.time()),
            "api_version": "2026-10-28.endive", "livemode": False, "pending_webhooks": 1, "data": {"object": plain},
        }  # fmt: skip
        self.events.insert(0, event)
        return json.dumps(event).encode()

    @staticmethod
    def sign(body: bytes, *, secret: str = SECRET, age_s: int = 0) -> str:
        """Return the Stripe-Signature header: HMAC-SHA256 of `t.body`, in hex."""
        moment = int(time.time()) - age_s
        mac = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        return f"t={moment},v1={mac}"

    # ── the API ───────────────────────────────────────────────────────────────────────────────────────────

    def answer(self, method: str, path: str, form: dict[str, str], headers: Any) -> tuple[int, dict[str, Any]]:
        if headers.get("authorization") != f"Bearer {KEY}":
            return 401, _error("Invalid API Key provided")
        if self.is_away:
            return 503, _error("away")
        self.calls.append((method, path, form))
        if (method, path) == ("POST", "/v1/checkout/sessions"):
            again = headers.get("idempotency-key", "")
            if again not in self._answered:
                self._answered[again] = self._setup(form) if form["mode"] == "setup" else self._session(form)
            return 200, self._answered[again]
        if (method, path) == ("POST", "/v1/payment_intents"):
            return self._charge(form, headers.get("idempotency-key", ""))
        kind, _, name = path.removeprefix("/v1/").rpartition("/")
        if kind == "subscriptions" and name in self.subscriptions:
            if method == "POST":
                self.subscriptions[name]["cancel_at_period_end"] = form["cancel_at_period_end"] == "true"
            return 200, {key: value for key, value in self.subscriptions[name].items() if not key.startswith("_")}
        if method == "GET" and kind == "invoices" and name in self.invoices:
            return 200, self.invoices[name]
        if (method, path) == ("GET", "/v1/invoices"):
            wanted = form["subscription"]
            mine = [i for i in self.invoices.values() if _subscription_of(i) == wanted]
            return 200, {"object": "list", "data": mine[::-1], "has_more": False, "url": "/v1/invoices"}
        if method == "GET" and kind == "checkout/sessions" and name in self.sessions:
            return 200, self._expanded(self.sessions[name], form)
        if method == "GET" and kind == "payment_intents" and name in self.intents:
            intent = dict(self.intents[name])
            if form.get("expand[0]") == "latest_charge":
                intent["latest_charge"] = self.charges.get(intent["latest_charge"] or "")
            return 200, intent
        if (method, path) == ("GET", "/v1/disputes"):
            found = [d for d in self.disputes if d["payment_intent"] == form.get("payment_intent")]
            return 200, {"object": "list", "data": found, "has_more": False, "url": "/v1/disputes"}
        if (method, path) == ("GET", "/v1/refunds"):
            refunds = [one for one in self.refunds if one["payment_intent"] == form.get("payment_intent")]
            return 200, {"object": "list", "data": refunds, "has_more": False, "url": "/v1/refunds"}
        if (method, path) == ("GET", "/v1/events"):
            kinds = {value for name, value in form.items() if name.startswith("types")}
            recent = [e for e in self.events if e["type"] in kinds and e["created"] >= int(form["created[gte]"])]
            return 200, {"object": "list", "data": recent, "has_more": False, "url": "/v1/events"}
        return 404, _error(f"Unrecognized request URL ({method}: {path})")

    def _session(self, form: dict[str, str]) -> dict[str, Any]:
        for name in ("mode", "success_url", "line_items[0][price_data][currency]", "line_items[0][quantity]"):
            assert form.get(name), f"Stripe would miss {name} in {form}"
        name = f"cs_test_{next(_numbers)}"
        session = {
            "id": name, "object": "checkout.session", "url": f"{self.url}/pay/{name}", "status": "open",
            "payment_status": "unpaid", "payment_intent": None, "currency": form["line_items[0][price_data][currency]"],
            "amount_total": int(form["line_items[0][price_data][unit_amount]"]) * int(form["line_items[0][quantity]"]),
            "client_reference_id": form.get("client_reference_id"), "metadata": _bracketed(form, "metadata"),
            "success_url": form["success_url"], "cancel_url": form["cancel_url"],
            "_intent_metadata": _bracketed(form, "payment_intent_data[metadata]"),
            "_subscription_metadata": _bracketed(form, "subscription_data[metadata]"), "mode": form["mode"],
            "subscription": None,
        }  # fmt: skip
        if form["mode"] == "subscription":
            assert form["line_items[0][price_data][recurring][interval]"] in ("week", "month", "year")
        self.sessions[name] = session
        return session

    def _setup(self, form: dict[str, str]) -> dict[str, Any]:
        """Make a session that saves a card."""
        assert form.get("customer_creation") == "always"
        name = f"cs_test_{next(_numbers)}"
        session = {
            "id": name, "object": "checkout.session", "mode": "setup", "url": f"{self.url}/pay/{name}",
            "status": "open", "payment_status": "no_payment_required", "payment_intent": None, "currency": "usd",
            "client_reference_id": form.get("client_reference_id"), "customer": None, "setup_intent": None,
            "success_url": form["success_url"], "cancel_url": form["cancel_url"], "amount_total": None,
        }  # fmt: skip
        self.sessions[name] = session
        return session

    def save_card(self, session_id: str, last4: str = "4242") -> None:
        """Let the customer save a card in a session of mode `setup`."""
        number = next(_numbers)
        method = {
            "id": f"pm_{number}", "object": "payment_method", "type": "card",
            "card": {"brand": "visa", "last4": last4},
        }  # fmt: skip
        intent = {"id": f"seti_{number}", "object": "setup_intent", "status": "succeeded", "payment_method": method}
        self.sessions[session_id].update(status="complete", customer=f"cus_{number}", setup_intent=intent)

    def _charge(self, form: dict[str, str], again: str) -> tuple[int, dict[str, Any]]:
        """Charge a saved card. A repeated idempotency key gets the first answer."""
        assert form["off_session"] == "true"
        assert form["confirm"] == "true"
        if again in self._answered:
            return 200, self._answered[again]
        number, cents = next(_numbers), int(form["amount"])
        intent = {
            "id": f"pi_{number}", "object": "payment_intent", "metadata": _bracketed(form, "metadata"),
            "status": self.charges_are, "amount": cents, "amount_received": 0, "latest_charge": None,
        }  # fmt: skip
        self.intents[intent["id"]] = intent
        if self.charges_are == "declined":
            intent["status"] = "requires_payment_method"
            message = "Your card was declined."
            return 402, {"error": {"type": "card_error", "code": "card_declined", "message": message}}
        if self.charges_are == "succeeded":
            self.settle_charge(intent["id"], succeeds=True)
        self._answered[again] = intent
        return 200, intent

    def settle_charge(self, intent_id: str, *, succeeds: bool) -> None:
        """End an off-session charge."""
        intent = self.intents[intent_id]
        intent["status"] = "succeeded" if succeeds else "requires_payment_method"
        if succeeds:
            charge = {
                "id": f"ch_{next(_numbers)}", "object": "charge", "amount": intent["amount"], "amount_refunded": 0,
                "disputed": False, "refunded": False, "payment_intent": intent_id, "metadata": intent["metadata"],
            }  # fmt: skip
            self.charges[charge["id"]] = charge
            intent.update(amount_received=intent["amount"], latest_charge=charge["id"])

    def _expanded(self, session: dict[str, Any], form: dict[str, str]) -> dict[str, Any]:
        shown = {key: value for key, value in session.items() if not key.startswith("_")}
        if form.get("expand[0]") == "payment_intent.latest_charge" and shown["payment_intent"]:
            intent = dict(self.intents[shown["payment_intent"]])
            intent["latest_charge"] = self.charges.get(intent["latest_charge"] or "")
            shown["payment_intent"] = intent
        return shown


def _bracketed(form: dict[str, str], name: str) -> dict[str, str]:
    return {key[len(name) + 1 : -1]: value for key, value in form.items() if key.startswith(name + "[")}


def _subscription_of(invoice: dict[str, Any]) -> str:
    return str(invoice["parent"]["subscription_details"]["subscription"])


def _error(words: str) -> dict[str, Any]:
    return {"error": {"message": words, "type": "invalid_request_error"}}


def _handler(stripe: Stripe) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.startswith("/pay/"):
                self._pay(parts.path.removeprefix("/pay/"))
                return
            self._reply(*stripe.answer("GET", parts.path, dict(parse_qsl(parts.query)), self.headers))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            self._reply(*stripe.answer("POST", self.path, dict(parse_qsl(body.decode())), self.headers))

        def _pay(self, name: str) -> None:
            """Pay, and send the customer back to the shop."""
            if stripe.sessions[name]["payment_status"] == "unpaid":
                stripe.pay(name, confirmed=not stripe.is_slow)
            elif stripe.sessions[name].get("mode") == "setup":
                stripe.save_card(name)
            self.send_response(303)
            self.send_header("location", stripe.sessions[name]["success_url"].replace("{CHECKOUT_SESSION_ID}", name))
            self.send_header("content-length", "0")
            self.end_headers()

        def _reply(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


if __name__ == "__main__":
    with Stripe(int(sys.argv[1])) as serving:
        sys.stdout.write(
            f"MINITOOLAI_STRIPE_SECRET_KEY={KEY}\nMINITOOLAI_STRIPE_WEBHOOK_SECRET={SECRET}\n"
            f"MINITOOLAI_STRIPE_API_URL={serving.url}\n"
        )
        sys.stdout.flush()
        threading.Event().wait()
