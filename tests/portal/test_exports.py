"""Exports over HTTP: the same bytes as in one piece; a slow client holds nothing; one that leaves ends the work."""

from __future__ import annotations

import codecs
import csv
import io
import json
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest
import requests

from minitoolai.billing import payments
from minitoolai.core.catalog.prices import APART
from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.portal.pages.account import account as account_page
from minitoolai.storage.schema import metadata
from minitoolai.storage.tables import users
from minitoolai.storage.tables.personal_data import OWNED
from minitoolai.storage.tables.reports import STATEMENT_PART, statement_page
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.history import seed_history
from tests.support.server import ServerProcess

REQUESTS = 3_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own: the tests look at its CPU time and its write-ahead log."""
    env = {"MINITOOLAI_TRIES_FACTOR": "1000"}
    with ServerProcess(tmp_path_factory.mktemp("exports"), catalog=CATALOG, env=env) as running:
        yield running


@pytest.fixture
def rich(member: Visitor, email: str, server: ServerProcess) -> int:
    """The account of the member, with a long history."""
    account_id: int = server.read(lambda c: users.find_user(c, email))[0].account_id
    now_ms = SystemClock().now_ms()
    server.write(lambda c: payments.grant(c, SystemClock(), account_id, 10**9, reason='a, "test"\nof two lines'))
    with server.connect() as connection:
        seed_history(connection, account_id, REQUESTS, first_ms=now_ms - 20 * MS_PER_DAY, until_ms=now_ms)
    return account_id


def in_one_piece(server: ServerProcess, account_id: int) -> bytes:
    """The statement as it was made before it was sent in parts: all rows of one query, one string."""
    rows = server.read(lambda c: statement_page(c, account_id, below=None, before_ms=2**62, rows=2**40))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(account_page.COLUMNS)
    writer.writerows(map(account_page.statement_line, rows))
    return text.getvalue().encode()


def test_the_statement_in_parts_has_the_bytes_of_one_piece(member: Visitor, rich: int, server: ServerProcess) -> None:
    whole = in_one_piece(server, rich)
    assert whole.count(b"\r\n") > REQUESTS * 0.9 > 10 * STATEMENT_PART
    answer = member.open("/balance/statement.csv")
    assert answer.content == codecs.BOM_UTF8 + whole
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="statement.csv"'
    assert answer.headers["cache-control"] == "no-store"
    head = member.head(member.url("/balance/statement.csv"), timeout=20)
    assert (head.status_code, head.content) == (200, b"")


def raw_request(member: Visitor, path: str) -> socket.socket:
    """Send a request and read nothing, with a small receive buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", member.server.port))
    cookies = "; ".join(f"{name}={value}" for name, value in member.cookies.get_dict().items())
    head = (
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{member.server.port}\r\ncookie: {cookies}\r\nconnection: close\r\n\r\n"
    )
    client.sendall(head.encode())
    return client


def test_a_client_that_does_not_read_holds_no_turn_no_snapshot_and_no_memory(
    member: Visitor, rich: int, server: ServerProcess
) -> None:
    whole = in_one_piece(server, rich)
    assert member.open("/balance/statement.csv").content == codecs.BOM_UTF8 + whole
    before_mb = server.resident_mb()
    clients = [raw_request(member, "/en/balance/statement.csv") for _ in range(4)]
    try:
        time.sleep(1.5)
        # Nothing more is read for a client that takes nothing.
        began_cpu_s = server.cpu_s()
        time.sleep(1.0)
        assert server.cpu_s() - began_cpu_s < 0.5
        assert server.resident_mb() - before_mb < 20
        # The turn of the account is free, and the write-ahead log can be emptied.
        began_s = time.monotonic()
        assert member.open("/balance").status_code == 200
        assert time.monotonic() - began_s < 5
        with server.connect() as connection:
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0
        # Later, the client gets the rest.
        client = clients.pop()
        client.settimeout(60)
        received = b"".join(iter(lambda: client.recv(65_536), b""))
        client.close()
        assert unchunked(received) == codecs.BOM_UTF8 + whole
    finally:
        for client in clients:
            client.close()


def unchunked(response: bytes) -> bytes:
    _, _, rest = response.partition(b"\r\n\r\n")
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return body
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


def test_usage_in_parts_has_the_bytes_of_one_piece(member: Visitor, rich: int, server: ServerProcess) -> None:
    answer = member.open("/usage/usage.csv?days=90")
    lines = list(csv.reader(io.StringIO(answer.text)))
    whole = io.StringIO()
    csv.writer(whole).writerows(lines)
    assert answer.content == whole.getvalue().encode()
    assert answer.content.startswith(codecs.BOM_UTF8 + b"day,kind,model,")
    assert sum(int(line[5]) for line in lines[1:]) == REQUESTS


def test_the_export_of_an_account_has_the_bytes_of_one_piece(
    member: Visitor, email: str, rich: int, server: ServerProcess
) -> None:
    done = server.command("account", "export", email)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert done.stdout == msgspec.json.format(msgspec.json.encode(told), indent=1).decode() + "\n"
    assert tuple(told) == OWNED
    expected = server.read(lambda c: {table: everything(c, table, rich) for table in OWNED})
    assert {table: sorted(map(row_key, rows)) for table, rows in told.items()} == {
        table: sorted(map(row_key, rows)) for table, rows in expected.items()
    }
    times = [row["created_ms"] for row in told["generations"]]
    assert times == sorted(times)
    assert [row["id"] for row in told["holds"]] == [row["id"] for row in told["generations"]]


def everything(connection: object, table: str, account_id: int) -> list[dict[str, object]]:
    """The rows of an account as one query found them."""
    secret = ("password_hash", "secret_hmac", "code_hmac", "secret_hash")
    secret += ("challenge", "browser_hash", "wrapped_key")
    secret += ("engine", "served_model", "purchase", "attempts", "worker")
    columns = [column.name for column in metadata.tables[table].columns if column.name not in secret]
    where = {
        "accounts": "id = ?",
        "transfers": "? IN (debit, credit)",
        "purses": "owner_id = ?",
        "members": "? IN (account_id, user_id)",
        "identities": "user_id = ?",
        "passkeys": "user_id = ?",
        "passkey_challenges": "user_id = ?",
        "factor_resets": "user_id = ?",
    }.get(table, "account_id = ?")
    rows = connection.execute(  # type: ignore[attr-defined]
        f"SELECT {', '.join(columns)} FROM {table} WHERE {where} ORDER BY 1", (account_id,)
    )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def row_key(row: dict[str, object]) -> str:
    return json.dumps(row)


def test_the_api_s_csv_is_that_of_its_json(server: ServerProcess) -> None:
    customer = server.account()
    now_ms = SystemClock().now_ms()
    with server.connect() as connection:
        seed_history(connection, customer.id, 1000, first_ms=now_ms - 9 * MS_PER_DAY, until_ms=now_ms)
    for group in ("day", "model", "key"):
        url = f"{server.url}/api/usage/?group_by={group}"
        told = requests.get(url, headers=customer.headers, timeout=20).json()["data"]
        columns = [group, "kind", "requests", "input_units", "output_units", "cost"]
        unused = {
            f"{bucket}_{what}": zero for bucket in APART for what, zero in (("units", 0), ("cost", "0.000000000"))
        } | {"refunded": "0.000000000"}
        whole = io.StringIO()
        writer = csv.DictWriter(whole, [*columns, *unused], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(line | unused for line in told)
        answer = requests.get(url + "&format=csv", headers=customer.headers, timeout=20)
        assert answer.content == whole.getvalue().encode()
        assert answer.headers["content-disposition"] == f'attachment; filename="usage-by-{group}.csv"'
        assert sum(line["requests"] for line in told) == 1000
