"""Start MiniToolAI with authentication, durable hold, settle and usage on, and check its accounts after the load."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from bench.gateways import MODEL, Gateway, Place, Running
from bench.mock import PROMPT_TOKENS, TOKENS
from bench.procs import Child, free_port
from bench.proxies import version_in
from minitoolai.accounts.keys import make_key
from minitoolai.core.clock import SystemClock

_EMAIL = "bench@example.com"
_CREDIT = Decimal("10000.00")
_HELD_WITHIN_S = 15.0
_PRICE = (Decimal("0.15"), Decimal("0.60"))  # dollars per million tokens, in and out, in both catalogs
_LEAN_CATALOG = f"""
[engines.openai]
kind = "upstream"
base_url = "http://127.0.0.1:1/v1"
needs_key = true
complete_chunks = false

[chat."{MODEL}"]
input = "{_PRICE[0]}"
output = "{_PRICE[1]}"
context = 128_000
max_output = 16_384
engines = ["openai"]
"""

_SELLING = """
[groups.bench]
factor = 0.9

[plans.bench]
price = "0"
credit = "5000.00"
window_5h = "5000.00"
window_week = "5000.00"
"""


class Ours(Gateway):
    """MiniToolAI behind an upstream that sends every documented field, as OpenAI does."""

    name, title, bills = "minitoolai", "MiniToolAI", "yes"
    lean: ClassVar[bool] = False
    checks_keys = True

    def __init__(self, program: Path | None = None) -> None:
        """Prepare the installation of this program, `minitoolai`; by default the one beside this interpreter."""
        self._program = program or _installed_program()

    def missing(self) -> str | None:
        return None if self._program else "not installed: make install"

    def environment(self, place: Place) -> dict[str, str]:
        """Return the settings of the server."""
        upstream = place.lean_port if self.lean else place.full_port
        env = {
            "MINITOOLAI_DATA_DIR": str(place.folder / "data"),
            "MINITOOLAI_OPENAI_API_KEY": "sk-upstream",
            # The limit is active but never reached: one account sends all requests.
            "MINITOOLAI_REQUESTS_PER_MINUTE": "1000000000",
            "MINITOOLAI_OPENAI_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
        }
        if self.lean:
            catalog = place.folder / "catalog.toml"
            catalog.write_text(_LEAN_CATALOG)
            env["MINITOOLAI_CATALOG"] = str(catalog)
        return env

    def version(self) -> str:
        self.env: dict[str, str] = {}
        return version_in(self._run("--version"))

    def bad_key(self, number: int) -> str:
        return make_key(0, "bench", b"of another server", SystemClock()).text

    def start(self, place: Place) -> Running:
        self.env = self.environment(place)
        self._run("account", "create", _EMAIL, "--credit", str(_CREDIT))
        self.prepare()
        key = self._run("key", "create", _EMAIL).strip()
        port = free_port()
        command = [str(self._program), "serve", "--host", "127.0.0.1", "--port", str(port)]
        child = Child(command, log=place.folder / "log", cores=place.cores, env=self.env)
        try:
            child.wait_ready(f"http://127.0.0.1:{port}/readyz", within_s=60)
        except BaseException:
            child.stop()
            raise
        return Running(child, port, key)

    def check_books(self, running: Running, *, answers: int, errors: int) -> str:
        balance = _settled_balance(running)
        audit = self._audit()
        if audit:
            return f"AUDIT: {audit}"
        if balance["held"]:
            return f"STILL HELD: {balance['held']}"
        if errors:
            return "audit empty; sum not checked because of errors"
        charged, due = self.charged(running, balance), answers * self.price()
        return "exact" if charged == due else f"CHARGED {charged}, DUE {due}"

    def prepare(self) -> None:
        """Prepare the account further."""

    def charged(self, running: Running, balance: dict[str, Decimal]) -> Decimal:
        """Return what all requests together were charged."""
        return _CREDIT - balance["balance"]

    def price(self) -> Decimal:
        """Return what one request costs."""
        return _price_of_one()

    def _run(self, *arguments: str) -> str:
        done = self._command(*arguments)
        if done.returncode:
            raise RuntimeError(f"minitoolai {' '.join(arguments)}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def _audit(self) -> str:
        """Return what `minitoolai audit` reports; empty if every invariant holds."""
        done = self._command("audit")
        return (done.stdout + done.stderr).strip()[-300:] if done.returncode else ""

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._program), *arguments]
        return subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True, check=False)


class OursLean(Ours):
    """MiniToolAI behind an upstream that leaves fields out, so that each event is rewritten."""

    name, title = "minitoolai-lean", "MiniToolAI, every event rewritten"
    lean = True


class OursWithPlan(Ours):
    """MiniToolAI, for an account with a price group and a plan with windows, which pays for every request."""

    name, title = "minitoolai-plan", "MiniToolAI, account with a group and a plan"

    def environment(self, place: Place) -> dict[str, str]:
        catalog = place.folder / "catalog.toml"
        catalog.write_text((files("minitoolai") / "catalog.toml").read_text("utf-8") + _SELLING)
        return super().environment(place) | {"MINITOOLAI_CATALOG": str(catalog)}

    def prepare(self) -> None:
        self._run("account", "group", _EMAIL, "bench")
        self._run("plan", "start", _EMAIL, "bench")

    def charged(self, running: Running, balance: dict[str, Decimal]) -> Decimal:
        plan = _get(running, "/api/balance/")["plan"]
        assert isinstance(plan, dict)
        return _CREDIT - balance["balance"] + Decimal(plan["credit"]) - Decimal(plan["available"])

    def price(self) -> Decimal:
        return _price_of_one() * Decimal("0.9")


class Other(Ours):
    """Another installation of MiniToolAI, such as that of an earlier commit."""

    name, title = "other", "MiniToolAI, the other installation"


class OtherLean(OursLean):
    """The same behind an upstream that leaves fields out."""

    name, title = "other-lean", "the other, every event rewritten"


def _installed_program() -> Path | None:
    beside = Path(sys.executable).parent / "minitoolai"
    found = str(beside) if beside.exists() else shutil.which("minitoolai")
    return Path(found) if found else None


def _get(running: Running, path: str) -> dict[str, object]:
    request = urllib.request.Request(f"http://127.0.0.1:{running.port}{path}")
    request.add_header("Authorization", f"Bearer {running.key}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        body: dict[str, object] = json.load(answer)
    return body


def _settled_balance(running: Running) -> dict[str, Decimal]:
    """Return the balance once nothing is held, or after the time in which every lease expires."""
    end = time.monotonic() + _HELD_WITHIN_S
    while True:
        response = _get(running, "/api/balance/")
        balance = {name: Decimal(str(response[name])) for name in ("balance", "held")}
        if not balance["held"] or time.monotonic() > end:
            return balance
        time.sleep(0.2)


def _price_of_one() -> Decimal:
    """Return the price of the mock's usage, in dollars."""
    return (PROMPT_TOKENS * _PRICE[0] + TOKENS * _PRICE[1]) / 1_000_000
