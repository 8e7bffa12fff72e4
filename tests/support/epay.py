"""Fake EPay-style provider on loopback: the page of the payment, the query of an order, and its notifications.

python -m tests.support.epay 22002     serve on this port; whoever opens a payment page has paid
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

MERCHANT, KEY = "1001", "epay-key-standin"
_numbers = itertools.count(1)


def signature(fields: dict[str, str], key: str = KEY) -> str:
    """Return the signature of the protocol, written here apart from the program's."""
    kept = {k: v for k, v in fields.items() if v != "" and k not in ("sign", "sign_type")}
    joined = "&".join("=".join(pair) for pair in sorted(kept.items()))
    return hashlib.md5((joined + key).encode()).hexdigest()


class Epay:
    """Serves as a context manager. `orders` holds what browsers brought to the payment page, by `out_trade_no`."""

    def __init__(self, port: int = 0) -> None:
        self.orders: dict[str, dict[str, Any]] = {}
        self.is_away = False
        self.queries = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Epay:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # ── what happens at the provider ──────────────────────────────────────────────────────────────────────

    def accept(self, url: str) -> str:
        """Take the order that a browser was led to, check its signature, and return its number."""
        parts = urlsplit(url)
        fields = dict(parse_qsl(parts.query))
        assert parts.path == "/submit.php"
        assert fields["sign"] == signature(fields), "the shop signed wrongly"
        assert fields["pid"] == MERCHANT
        self.orders[fields["out_trade_no"]] = fields | {"status": 0, "trade_no": f"t{next(_numbers)}"}
        return fields["out_trade_no"]

    def pay(self, number: str, *, money: str | None = None) -> None:
        """Pay an order; with `money`, report another amount."""
        order = self.orders[number]
        order["status"] = 1
        order["money"] = money or order["money"]

    def refund(self, number: str) -> None:
        self.orders[number]["status"] = 2

    def notification(self, number: str, *, key: str = KEY, **changes: str) -> dict[str, str]:
        """Return the parameters of the notification about a paid order."""
        order = self.orders[number]
        fields = {
            "pid": MERCHANT, "trade_no": order["trade_no"], "out_trade_no": number, "type": "alipay",
            "name": order["name"], "money": order["money"], "trade_status": "TRADE_SUCCESS",
        } | changes  # fmt: skip
        return fields | {"sign": signature(fields, key), "sign_type": "MD5"}

    def notify(self, number: str) -> requests.Response:
        """Send the notification as the provider does."""
        return requests.get(self.orders[number]["notify_url"], params=self.notification(number), timeout=30)

    # ── the API ───────────────────────────────────────────────────────────────────────────────────────────

    def answer(self, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if self.is_away:
            return 503, {"code": -1, "msg": "away"}
        self.queries += 1
        if fields.get("act") != "order" or (fields.get("pid"), fields.get("key")) != (MERCHANT, KEY):
            return 200, {"code": -3, "msg": "wrong key"}
        order = self.orders.get(fields.get("out_trade_no", ""))
        if order is None:
            return 200, {"code": -1, "msg": "no such order"}
        shown = {name: order[name] for name in ("trade_no", "out_trade_no", "money", "name")}
        # Real providers send the status as text, too.
        return 200, {"code": 1, "msg": "ok", "status": str(order["status"]), **shown}


def environment(epay: Epay) -> dict[str, str]:
    """Return the settings that make a server use this fake provider: 7.10 CNY for a dollar."""
    return {
        "MINITOOLAI_EPAY_URL": epay.url, "MINITOOLAI_EPAY_MERCHANT": MERCHANT, "MINITOOLAI_EPAY_KEY": KEY,
        "MINITOOLAI_EPAY_RATE": "7.10", "MINITOOLAI_TRIES_FACTOR": "1000",
    }  # fmt: skip


def _handler(epay: Epay) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/submit.php":
                number = epay.accept(self.path)
                epay.pay(number)
                order = epay.orders[number]
                self._send(303, b"", ("location", f"{order['return_url']}?{urlencode(epay.notification(number))}"))
                return
            status, answer = epay.answer(dict(parse_qsl(parts.query)))
            self._send(status, json.dumps(answer).encode(), ("content-type", "application/json"))

        def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in (*headers, ("content-length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


if __name__ == "__main__":
    with Epay(int(sys.argv[1])) as serving:
        sys.stdout.write("".join(f"{name}={value}\n" for name, value in environment(serving).items()))
        sys.stdout.flush()
        threading.Event().wait()
