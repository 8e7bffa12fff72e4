"""The daily export of the request log: one object a day, retried, signed, in constant memory, only to public hosts."""

from __future__ import annotations

import asyncio
import base64
import csv
import gzip
import hashlib
import hmac
import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import boto3
import msgspec
import pytest

from minitoolai.core.clock import MS_PER_DAY, generation_name
from minitoolai.core.signing import SecretKeys
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.httpclient.s3 import Bucket
from minitoolai.images.webhooks import WebhookSecrets
from minitoolai.portal.log_export import (
    COLUMNS,
    DELAY_MS,
    FIRST_PAUSE_MS,
    LONGEST_PAUSE_MS,
    LogExporter,
    encrypt_secrets_anew,
    ready_ms,
    secret_cipher,
)
from minitoolai.storage.selling import notices
from minitoolai.storage.tables import accounts, log_exports
from minitoolai.storage.tables.log_exports import LogExport
from tests.support.books import DONE, NOON_MS, TemporaryBooks, hold, settle
from tests.support.buckets import REGION, S3Server
from tests.support.upstream import Exchange, Upstream

TODAY = NOON_MS // MS_PER_DAY
YESTERDAY = TODAY - 1
KEYS = SecretKeys(b"secret", [b"older"])
ROWS = 7


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("logs")
        yield server


class Receiver(Upstream):
    """A webhook that keeps what it received and answers with these statuses in turn."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[Exchange] = []
        self._statuses = list(statuses)
        super().__init__(self._take)

    async def _take(self, exchange: Exchange) -> None:
        self.got.append(exchange)
        exchange.answer(self._statuses.pop(0) if self._statuses else 200, b"")


class Reports:
    """Stands for the reports of a server, of which the exporter needs the archive."""

    def __init__(self, archive: object) -> None:
        self.archive = archive


def fill(books: TemporaryBooks, rows: int = ROWS) -> int:
    """Make an account with requests of the day before yesterday, yesterday and today, and return it."""
    account = books.account(10**9)
    number = 0
    for day in (YESTERDAY - 1, YESTERDAY, TODAY):
        for _ in range(rows if day == YESTERDAY else 1):
            number += 1
            at_ms = day * MS_PER_DAY + number
            books.apply(hold(number, account, 5, now_ms=at_ms))
            books.apply(settle(number, account, 3, DONE))
    return account


def exporter(books: TemporaryBooks, tmp_path: Any, writer: Any, *, insecure: bool = True) -> LogExporter:
    reports: Any = Reports(books.archive_reader(tmp_path))
    return LogExporter(books.database, writer, books.clock, reports, KEYS, GuardedClient(insecure=insecure))


def save(books: TemporaryBooks, account: int, kind: Any, target: str, form: Any = "csv", day: int = YESTERDAY) -> None:
    secret = secret_cipher(KEYS).encrypt(account, b"hush") if kind == "s3" else None
    export = LogExport(account, kind, form, target, secret, day, ready_ms(day), 0, None, None, None, 5)
    with books.connection.transaction():
        log_exports.replace(books.connection, export)


def bucket(s3: S3Server, prefix: str) -> str:
    found = Bucket("logs", REGION, s3.endpoint, prefix, "AKIDEXAMPLE")
    return msgspec.json.encode(found).decode()


def objects(s3: S3Server, prefix: str) -> dict[str, bytes]:
    client = boto3.client(
        "s3", endpoint_url=s3.endpoint, region_name=REGION, aws_access_key_id="x", aws_secret_access_key="y"
    )
    listed = client.list_objects_v2(Bucket="logs", Prefix=prefix).get("Contents", [])
    return {one["Key"]: client.get_object(Bucket="logs", Key=one["Key"])["Body"].read() for one in listed}


def run(books: TemporaryBooks, tmp_path: Any, times: int = 1, **options: Any) -> list[int]:
    """Let the exporter look so many times, and return how many days it attempted each time."""

    async def go() -> list[int]:
        return [await exporter(books, tmp_path, writer, **options).send_due() for _ in range(times)]

    with books.writer() as writer:
        return asyncio.run(go())


def state(books: TemporaryBooks, account: int) -> LogExport:
    found = log_exports.find(books.connection, account)
    assert found is not None
    return found


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_yesterday_becomes_one_object_of_a_bucket(
    books: TemporaryBooks, s3: S3Server, tmp_path: Any, form: str, request: pytest.FixtureRequest
) -> None:
    account, prefix = fill(books), f"{request.node.name}/"
    save(books, account, "s3", bucket(s3, prefix), form)
    assert run(books, tmp_path, 3) == [1, 0, 0]
    ((key, packed),) = objects(s3, prefix).items()
    assert key.startswith(f"{prefix}requests-20")
    assert key.endswith(f".{form}.gz")
    text = gzip.decompress(packed).decode()
    rows = (
        list(csv.DictReader(io.StringIO(text))) if form == "csv" else [json.loads(line) for line in text.splitlines()]
    )
    assert [row["id"] for row in rows] == [generation_name(number) for number in range(ROWS + 1, 1, -1)]
    assert all(tuple(row) == COLUMNS for row in rows)
    found = state(books, account)
    assert (found.done_day, found.next_day, found.failures, found.error) == (YESTERDAY, TODAY, 0, None)
    assert found.next_ms == (TODAY + 1) * MS_PER_DAY + DELAY_MS
    # A repetition of the same day replaces the object by the same bytes.
    save(books, account, "s3", bucket(s3, prefix), form)
    run(books, tmp_path)
    assert objects(s3, prefix) == {key: packed}


def test_a_webhook_gets_a_signed_file(books: TemporaryBooks, tmp_path: Any) -> None:
    account = fill(books)
    with Receiver() as receiver:
        save(books, account, "webhook", receiver.base_url)
        assert run(books, tmp_path) == [1]
        (got,) = receiver.got
    headers = {name.lower(): value for name, value in got.headers.items()}
    assert len(gzip.decompress(got.raw).splitlines()) == ROWS + 1
    assert headers["x-log-rows"] == str(ROWS)
    message = headers["webhook-id"]
    assert message.startswith(f"log-{account}-20")
    secret = base64.b64decode(WebhookSecrets(KEYS).secret_for(account).removeprefix("whsec_"))
    signed = f"{message}.{headers['webhook-timestamp']}.".encode() + got.raw
    digest = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    assert f"v1,{digest}" in headers["webhook-signature"].split()


def test_a_failed_day_is_retried_with_growing_pauses_and_notified_once(books: TemporaryBooks, tmp_path: Any) -> None:
    account = fill(books)
    pauses = []
    with Receiver(*([500] * 9)) as receiver:
        save(books, account, "webhook", receiver.base_url)
        for _ in range(9):
            assert run(books, tmp_path) == [1]
            found = state(books, account)
            assert found.error == "The server answered with status 500."
            pauses.append(found.next_ms - books.clock.now_ms())
            assert run(books, tmp_path) == [0]
            books.clock.forward(pauses[-1] / 1000)
        assert pauses == [min(FIRST_PAUSE_MS * 2**n, LONGEST_PAUSE_MS) for n in range(9)]
        assert [one.type for one in notices.notices_of(books.connection, account, 9)] == ["export.failed"]
        # The receiver is well again: the day is sent, then the next one at its time.
        assert run(books, tmp_path) == [1]
        assert len({one.headers["webhook-id"] for one in receiver.got}) == 1
    found = state(books, account)
    assert (found.done_day, found.failures, found.error) == (YESTERDAY, 0, None)


def test_days_of_an_outage_follow_one_by_one(books: TemporaryBooks, tmp_path: Any) -> None:
    account = fill(books)
    with Receiver() as receiver:
        save(books, account, "webhook", receiver.base_url, day=YESTERDAY - 2)
        assert run(books, tmp_path, 5) == [1, 1, 1, 0, 0]
        assert [one.headers["x-log-rows"] for one in receiver.got] == ["0", "1", str(ROWS)]


def test_a_private_address_gets_nothing(books: TemporaryBooks, tmp_path: Any) -> None:
    account = fill(books)
    with Receiver() as receiver:
        save(books, account, "webhook", receiver.base_url)
        assert run(books, tmp_path, insecure=False) == [1]
        assert receiver.got == []
    assert "url must" in (state(books, account).error or "")
    target = msgspec.json.encode(Bucket("logs", endpoint="https://169.254.169.254")).decode()
    save(books, account, "s3", target)
    run(books, tmp_path, insecure=False)
    assert "endpoint must" in (state(books, account).error or "")


def test_a_change_during_the_upload_is_kept(books: TemporaryBooks, tmp_path: Any) -> None:
    account = fill(books)
    other = LogExport(account, "webhook", "csv", "https://example.com", None, TODAY, 9**15, 0, None, None, None, 6)

    class Changing(Receiver):
        async def _take(self, exchange: Exchange) -> None:
            with books.connection.transaction():
                log_exports.replace(books.connection, other)
            await super()._take(exchange)

    with Changing() as receiver:
        save(books, account, "webhook", receiver.base_url)
        run(books, tmp_path)
    assert state(books, account) == other


def test_a_wrong_or_lost_secret_is_told_and_a_new_server_secret_keeps_it(
    books: TemporaryBooks, s3: S3Server, tmp_path: Any
) -> None:
    account = fill(books)
    save(books, account, "s3", bucket(s3, "lost/"))
    with books.connection.transaction():
        books.connection.execute("UPDATE log_exports SET secret = ?", (b"not what we wrote",))
    run(books, tmp_path)
    assert "Enter it again" in (state(books, account).error or "")
    save(books, account, "s3", bucket(s3, "kept/"))
    newer = SecretKeys(b"newer", [b"secret"])
    with books.connection.transaction():
        assert encrypt_secrets_anew(books.connection, newer) == 1
    stored = state(books, account).secret
    assert secret_cipher(SecretKeys(b"newer")).decrypt(account, stored or b"") == b"hush"


def test_memory_does_not_grow_with_the_log(books: TemporaryBooks, tmp_path: Any) -> None:
    peaks = []
    account = fill(books, 1)
    with Receiver() as receiver:
        for rows in (600, 2400):
            first = 10_000 * len(peaks) + 10_000
            numbers = range(first, first + rows)
            books.apply(*(hold(number, account, 5, now_ms=YESTERDAY * MS_PER_DAY + number) for number in numbers))
            books.apply(*(settle(number, account, 3, DONE) for number in numbers))
            save(books, account, "webhook", receiver.base_url)
            tracemalloc.start()
            run(books, tmp_path)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5


def test_an_erased_account_exports_nothing(books: TemporaryBooks, tmp_path: Any) -> None:
    from minitoolai.storage.tables import users

    account = accounts.create_account(books.connection, "ann@example.com", None, 5)
    save(books, account, "webhook", "https://example.com")
    with books.connection.transaction():
        users.erase_personal_data(books.connection, account, [], NOON_MS)
    assert log_exports.find(books.connection, account) is None
    assert run(books, tmp_path) == [0]
