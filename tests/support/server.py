"""Run a real `minitoolai serve` in a separate process: start it, add accounts, stop it and inspect it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from minitoolai.accounts import keys as account_service
from minitoolai.billing import payments
from minitoolai.cli import common as commands
from minitoolai.core.clock import SystemClock, parse_generation_name
from minitoolai.core.models import Balance
from minitoolai.core.money import parse_dollars
from minitoolai.core.signing import SecretKeys
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Recover, Result, Settled
from minitoolai.paths import existing_secret_keys, load_secret_keys
from minitoolai.settings import Secret, Settings
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts, ledger
from tests.support.books import new_file
from tests.support.cli import run_within
from tests.support.waiting import children_of, eventually, is_alive

PROGRAM = [str(Path(sys.executable).with_name("minitoolai"))]
START_TIMEOUT_S = 90.0
#: What a healthy server never writes to standard error.
SIGNS_OF_ILLNESS = ("Traceback", "never retrieved", "never awaited", "was destroyed", "LEDGER INVARIANT VIOLATED")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Account:
    """A customer, with one key. Amounts are nano-dollars."""

    server: ServerProcess
    id: int
    email: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def money(self) -> Balance:
        """Return the current balance."""
        return self.server.read(lambda connection: accounts.balance_of(connection, self.id))

    def settled(self, within_s: float = 15.0) -> int:
        """Return the balance once no holds are pending."""
        eventually(lambda: self.money().held == 0, within_s=within_s)
        return self.money().posted


class ServerProcess:
    """One data folder and the process that serves it. It can be started again after a kill.

    `is_new`: let it create its SQLite file. Otherwise it gets one with all tables, which saves a second. `program`: the
    command of another installation.
    """

    def __init__(
        self,
        folder: Path,
        *,
        catalog: str | None = None,
        env: Mapping[str, str] | None = None,
        is_new: bool = False,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._program = program
        self.folder = folder
        self.data_dir = folder / "data"
        # Keep the rate limits on, but too high for tests to reach by accident.
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MINITOOLAI_")}
        self.env = (
            clean
            | {
                "MINITOOLAI_REQUESTS_PER_MINUTE": "1000000000",
                "MINITOOLAI_DEMO_MODEL": "small",
                "MINITOOLAI_STAND_INS": "sell",
            }
            | dict(env or {})
        )
        self.settings = Settings(
            data_dir=self.data_dir, database_url=Secret(self.env.get("MINITOOLAI_DATABASE_URL", ""))
        )
        self.port = 0
        self._is_new = is_new
        if catalog is not None:
            path = folder / "catalog.toml"
            path.write_text(catalog)
            self.env["MINITOOLAI_CATALOG"] = str(path)
        self.log = folder / "serve.log"
        self._process: subprocess.Popen[str] | None = None
        self._is_prepared = False

    # ── the process ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *arguments: str) -> ServerProcess:
        """Start, and wait until the server is ready."""
        if not (self._is_new or self.settings.database_url):
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            new_file(self.data_dir)
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*self._program, "serve", "--port", str(self.port), "--data-dir", str(self.data_dir), *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.env,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("MiniToolAI answers at http"), f"{line!r}\n{self.log.read_text()}"
        self.port = int(line.rsplit(":", 1)[1])
        eventually(lambda: requests.get(self.url + "/readyz", timeout=10).status_code == 200, within_s=START_TIMEOUT_S)
        return self

    def demo_key(self) -> str:
        """Return the key that `serve --demo` prints."""
        return self.printed_line("sk-mt-")

    def printed_line(self, start: str) -> str:
        """Read what the server prints up to a line that begins so, and return that line."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line.strip()
        raise AssertionError(f"no line {start}… was printed")

    def kill(self) -> None:
        """Send SIGKILL, which has the effect of a power cut."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def terminate(self) -> None:
        """Send SIGTERM without waiting."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self, within_s: float = 15.0) -> int:
        """Return the exit status. A response that is never released would keep the server waiting longer than this."""
        assert self._process is not None
        self._process.communicate(timeout=within_s)
        return self._process.returncode

    def stop(self) -> None:
        """Send SIGTERM, and check the exit status, the child processes, the ledger and the log."""
        children = children_of(self.pid)
        self.terminate()
        assert self.wait() == 0, self.log.read_text()
        eventually(lambda: not any(map(is_alive, children)))
        self.check_books()
        log = self.log.read_text()
        assert not [sign for sign in SIGNS_OF_ILLNESS if sign in log], log[-4000:]

    def check_books(self) -> None:
        """Check with `minitoolai audit` and directly that all invariants hold and no hold is pending."""
        # In this process: another one would take longer than the audit, at the end of each server.
        said = run_within(("audit", "--data-dir", str(self.data_dir)), self.env)
        assert said.status == 0, said.out
        assert self.read(ledger.broken_invariants) == {}
        pending = self.read(lambda c: c.execute("SELECT id, amount, progress FROM holds WHERE state = 'pending'"))
        assert pending == []

    def check_settled(self, within_s: float = 15.0) -> None:
        """Check after a test that soon no hold is pending, and that all invariants hold."""
        pending = "SELECT count(*) FROM holds WHERE state = 'pending'"
        eventually(lambda: self.read(lambda c: c.execute(pending)) == [(0,)], within_s=within_s)
        assert self.read(ledger.broken_invariants) == {}

    def __enter__(self) -> ServerProcess:
        return self if self._process is not None else self.start()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._process is not None and self._process.poll() is None:
            if kind is None:
                self.stop()
            else:
                self.kill()

    def open_files(self) -> int:
        """Return the number of open file descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def resident_mb(self) -> float:
        """Return the resident memory in MB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the process is gone")

    def cpu_s(self) -> float:
        """Return the CPU time it has used, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # ── its database ─────────────────────────────────────────────────────────────────────────────────────────

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `minitoolai …` beside the server."""
        command = [*PROGRAM, *arguments, "--data-dir", str(self.data_dir)]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)

    def read(self, question: Callable[[Connection], Any]) -> Any:
        """Run a query on the database."""
        return commands.read(self.settings, question)

    def write(self, change: Callable[[Connection], Any]) -> Any:
        """Change the database beside the server."""
        return commands.write(self.settings, change)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection beside the server that may write, for changes of many rows."""
        with commands.opened(self.settings) as database, closing(database.connect()) as connection:
            yield connection

    def account(self, credit: str | None = "5.00") -> Account:
        """Create a customer with a key, with the functions behind the commands (processes would be slow)."""
        secret, clock, email = self._prepared(), SystemClock(), f"customer-{next(_numbers)}@example.com"

        def change(connection: Connection) -> Account:
            account_id = accounts.create_account(connection, email, None, clock.now_ms())
            if credit is not None:
                payments.grant(connection, clock, account_id, parse_dollars(credit), reason="test")
            key = account_service.make_key(account_id, "test", secret, clock)
            accounts.insert_key(connection, key.row)
            return Account(self, account_id, email, key.text)

        made: Account = commands.write(self.settings, change)
        return made

    def _prepared(self) -> SecretKeys:
        """Prepare the database for the first account, and return the secret keys."""
        secret = existing_secret_keys(self.settings) if self._is_prepared else None
        if secret is None:
            commands.prepare(self.settings)
            secret, self._is_prepared = load_secret_keys(self.settings), True
        return secret

    def generation(self, name: str) -> dict[str, Any]:
        """Return the row of a generation, with the state and amount of its hold."""
        return self.read(lambda c: _generation(c, parse_generation_name(name)))  # type: ignore[no-any-return]

    def recover(self, name: str) -> None:
        """Recover its hold, as another process does if the lease has expired."""
        number, now_ms = parse_generation_name(name), SystemClock().now_ms()
        assert number is not None

        def change(connection: Connection) -> list[Result]:
            account = connection.execute("SELECT account_id FROM holds WHERE id = ?", (number,))[0][0]
            return ledger.apply(connection, [Recover(number, account, now_ms, forced=True)], decide)

        (verdict,) = self.write(change)
        assert isinstance(verdict, Settled)
        assert not verdict.repeated

    def transfers_of(self, name: str) -> list[int]:
        """Return the amount of each charge for one generation."""
        number = parse_generation_name(name)
        rows = self.read(lambda c: c.execute("SELECT amount FROM transfers WHERE hold_id = ?", (number,)))
        return [row[0] for row in rows]


_GENERATION = {
    "state": "g.state",
    "cost": "g.cost",
    "input_units": "g.input_units",
    "output_units": "g.output_units",
    "estimated": "g.estimated",
    "delivered_bytes": "g.delivered_bytes",
    "error_code": "g.error_code",
    "served_model": "g.served_model",
    "hold_state": "h.state",
    "hold_amount": "h.amount",
}


def _generation(connection: Connection, number: int | None) -> dict[str, Any]:
    columns = ", ".join(_GENERATION.values())
    rows = connection.execute(
        f"SELECT {columns} FROM generations g JOIN holds h ON h.id = g.id WHERE g.id = ?", (number,)
    )
    return dict(zip(_GENERATION, rows[0], strict=True))
