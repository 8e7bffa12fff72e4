"""Fake Stripe on loopback: the API calls that we make, per its API reference, and its webhook signatures.

The test pays, refunds and disputes sessions; `event` returns the webhook that Stripe would send.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
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

    def __init__(self) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}
        self.intents: dict[str, dict[str, Any]] = {}
        self.charges: dict[str, dict[str, Any]] = {}
        self.disputes: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        self.is_away = False
        self._answered: dict[str, dict[str, Any]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
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
        number = next(_numbers)
        charge = {
            "id": f"ch_{number}", "object": "charge", "amount": session["amount_total"], "amount_refunded": 0,
            "disputed": False, "refunded": False, "payment_intent": f"pi_{number}",
            "metadata": session["_intent_metadata"],
        }  # fmt: skip
        intent = {"id": f"pi_{number}", "object": "payment_intent", "metadata": session["_intent_metadata"]}
        self.charges[charge["id"]] = charge
        self.intents[intent["id"]] = intent | {"latest_charge": charge["id"] if confirmed else None}
        session.update(status="complete", payment_status="paid" if confirmed else "unpaid", payment_intent=intent["id"])
        session.update(currency=currency)

    def confirm(self, session_id: str) -> None:
        """Let the money of a slow payment method arrive."""
        session = self.sessions[session_id]
        session.update(payment_status="paid")
        charge = next(c for c in self.charges.values() if c["payment_intent"] == session["payment_intent"])
        self.intents[session["payment_intent"]]["latest_charge"] = charge["id"]

    def refund(self, session_id: str, cents: int) -> None:
        charge = self.charge(session_id)
        charge["amount_refunded"] += cents
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]

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
            return 200, self._answered.setdefault(again, self._session(form))
        kind, _, name = path.removeprefix("/v1/").rpartition("/")
        if method == "GET" and kind == "checkout/sessions" and name in self.sessions:
            return 200, self._expanded(self.sessions[name], form)
        if method == "GET" and kind == "payment_intents" and name in self.intents:
            return 200, self.intents[name]
        if (method, path) == ("GET", "/v1/disputes"):
            found = [d for d in self.disputes if d["payment_intent"] == form.get("payment_intent")]
            return 200, {"object": "list", "data": found, "has_more": False, "url": "/v1/disputes"}
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
        }  # fmt: skip
        self.sessions[name] = session
        return session

    def _expanded(self, session: dict[str, Any], form: dict[str, str]) -> dict[str, Any]:
        shown = {key: value for key, value in session.items() if not key.startswith("_")}
        if form.get("expand[0]") == "payment_intent.latest_charge" and shown["payment_intent"]:
            intent = dict(self.intents[shown["payment_intent"]])
            intent["latest_charge"] = self.charges.get(intent["latest_charge"] or "")
            shown["payment_intent"] = intent
        return shown


def _bracketed(form: dict[str, str], name: str) -> dict[str, str]:
    return {key[len(name) + 1 : -1]: value for key, value in form.items() if key.startswith(name + "[")}


def _error(words: str) -> dict[str, Any]:
    return {"error": {"message": words, "type": "invalid_request_error"}}


def _handler(stripe: Stripe) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self._reply(*stripe.answer("GET", parts.path, dict(parse_qsl(parts.query)), self.headers))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            self._reply(*stripe.answer("POST", self.path, dict(parse_qsl(body.decode())), self.headers))

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
