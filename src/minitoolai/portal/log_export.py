"""Send the request log of each day to the bucket or the webhook that an account has configured.

A day is written to a compressed file in pieces, then sent from it, so memory does not grow with the log. It has one
name, so that a repetition replaces the object. A failed day is tried again, with growing pauses, before the next one.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import logging
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import msgspec

from minitoolai.accounts.ciphers import AccountCipher
from minitoolai.availability import Reports
from minitoolai.billing.selling.notices import announce
from minitoolai.core.clock import MS_PER_DAY, Clock, date_of, generation_name
from minitoolai.core.errors import InvalidRequest, ServiceError, StoreError
from minitoolai.core.models import RecentRequest
from minitoolai.core.money import format_dollars
from minitoolai.core.signing import SecretKeys
from minitoolai.core.threads import EXPORTS
from minitoolai.http.exports import csv_lines
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.httpclient.s3 import Bucket, signed_headers
from minitoolai.images.webhooks import WebhookSecrets
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.insight.requests import LogFilter, LogPlace
from minitoolai.storage.tables import log_exports
from minitoolai.storage.tables.log_exports import LogExport
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)
HOUR_MS = 3600 * 1000
#: A day is sent this long after its end, when its last requests have ended.
DELAY_MS = HOUR_MS
POLL_EVERY_S = 60.0
#: Longer than an upload may take: until then no other process sends the same day.
LEASE_MS, UPLOAD_TIMEOUT_S = HOUR_MS, 1800.0
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 5 * 60 * 1000, 6 * HOUR_MS
#: Failures of a day after which the account is notified, once.
NOTIFY_AFTER = 3
BATCH, ROWS, BLOCK_BYTES = 20, 500, 256 * 1024
COLUMNS = (
    "id", "time", "kind", "model", "key_id", "state", "error_code", "input_units", "output_units",
    "cached_input_units", "duration_ms", "cost", "refunded", "currency",
)  # fmt: skip
CONTENT_TYPE = "application/gzip"


class ExportFile(msgspec.Struct, frozen=True):
    """The compressed log of a day."""

    path: Path
    size: int
    sha256: str
    rows: int


def secret_cipher(secret_keys: SecretKeys) -> AccountCipher:
    """Return the cipher of the secret access keys of customers' buckets."""
    return AccountCipher(secret_keys, b"log exports")


def object_name(export: LogExport) -> str:
    """Return the name of the object of the next day: `requests-2026-11-30.csv.gz`."""
    return f"requests-{date_of(export.next_day)}.{export.format}.gz"


def line_of(row: RecentRequest) -> tuple[object, ...]:
    """Return the values of a request, as COLUMNS names them. Programs read them, so no formula is escaped."""
    moment = datetime.fromtimestamp(row.created_ms / 1000, UTC).isoformat(timespec="milliseconds")
    took_ms = None if row.finished_ms is None else max(row.finished_ms - row.created_ms, 0)
    cost = None if row.is_pending else format_dollars(row.cost)
    return (
        generation_name(row.id), moment, row.kind, row.model, row.key_id, row.state, row.error_code,
        row.input_units, row.output_units, row.cached_units, took_ms, cost, format_dollars(row.refunded), "USD",
    )  # fmt: skip


def encode(rows: list[RecentRequest], form: str) -> bytes:
    """Return rows as lines of CSV or JSON."""
    lines = map(line_of, rows)
    if form == "csv":
        return csv_lines([["" if value is None else value for value in line] for line in lines])
    return b"".join(msgspec.json.encode(dict(zip(COLUMNS, line, strict=True))) + b"\n" for line in lines)


class LogExporter:
    """Background task that sends the days that are due. Several processes share the work."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        reports: Reports,
        secret_keys: SecretKeys,
        client: GuardedClient,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._reports = reports
        self._cipher = secret_cipher(secret_keys)
        self._webhook_secrets = WebhookSecrets(secret_keys)
        self._client = client

    async def run(self) -> None:
        """Send until cancelled. Database errors are logged and retried."""
        while True:
            try:
                await self.send_due()
            except (StoreError, ServiceError) as error:
                log.warning("sending request logs failed, will retry: %s", error)
            await asyncio.sleep(POLL_EVERY_S)

    async def send_due(self) -> int:
        """Send the days that are due, one after the other, and return how many were attempted."""
        attempted = 0
        for export in await self._database.read_async(log_exports.due, self._clock.now_ms(), BATCH):
            until_ms = self._clock.now_ms() + LEASE_MS
            if await self._writer.run(partial(log_exports.claim, seen=export, until_ms=until_ms)):
                attempted += 1
                await self._send_day(export)
        return attempted

    async def _send_day(self, export: LogExport) -> None:
        error = None
        try:
            with tempfile.NamedTemporaryFile(prefix="minitoolai-log-") as file:
                made = await self._write(export, cast(BinaryIO, file))
                status = await self._upload(export, made)
            if not 200 <= status < 300:
                error = f"The server answered with status {status}."
        except ServiceError as failure:
            error = failure.message[:300]
        except OSError as failure:
            error = "The file could not be written."
            log.error("writing the request log of account %d failed: %s", export.account_id, failure)
        await self._writer.run(lambda connection: self._record(connection, export, error))

    def _record(self, connection: Connection, export: LogExport, error: str | None) -> None:
        """Plan the next day, or the next attempt of this one. Notify the account of a day that failed repeatedly."""
        now_ms = self._clock.now_ms()
        if error is None:
            day = export.next_day
            done = export._replace(
                next_day=day + 1, next_ms=ready_ms(day + 1), failures=0, error=None, done_day=day, done_ms=now_ms
            )
            log_exports.record(connection, export, done)
            return
        failures = export.failures + 1
        pause_ms = min(FIRST_PAUSE_MS * 2 ** min(failures - 1, 10), LONGEST_PAUSE_MS)
        failed = export._replace(next_ms=now_ms + pause_ms, failures=failures, error=error)
        if log_exports.record(connection, export, failed) and failures == NOTIFY_AFTER:
            day_name = date_of(export.next_day)
            announce(connection, self._clock, export.account_id, "export.failed", day_name, {"day": day_name})

    # ── a day in a file ───────────────────────────────────────────────────────────────────────────────────

    async def _write(self, export: LogExport, file: BinaryIO) -> ExportFile:
        begin_ms = export.next_day * MS_PER_DAY
        only = LogFilter(export.account_id, from_ms=begin_ms, until_ms=begin_ms + MS_PER_DAY)
        place: LogPlace | None = None
        count = 0
        # Without a time in its head, the same rows make the same bytes.
        packed = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="")
        if export.format == "csv":
            packed.write(csv_lines([COLUMNS]))
        while True:
            rows, place = await self._reports.archive.matching_requests(only, ROWS, place)
            count += len(rows)
            await EXPORTS.run(_write_rows, packed, rows, export.format)
            if place is None:
                break
        await EXPORTS.run(packed.close)
        file.flush()
        size, path = file.tell(), Path(file.name)
        digest = await EXPORTS.run(_digest, path, hashlib.sha256())
        return ExportFile(path, size, digest.hex(), count)

    # ── destinations ──────────────────────────────────────────────────────────────────────────────────────

    async def _upload(self, export: LogExport, made: ExportFile) -> int:
        if export.kind == "s3":
            return await self._put(export, made)
        now_ms, message_id = self._clock.now_ms(), f"log-{export.account_id}-{date_of(export.next_day)}"
        timestamp = str(now_ms // 1000)
        begin = f"{message_id}.{timestamp}.".encode()
        signatures = []
        for key in self._webhook_secrets.keys_for(export.account_id):
            signed = await EXPORTS.run(_digest, made.path, hmac.new(key, begin, hashlib.sha256))
            signatures.append("v1," + base64.b64encode(signed).decode())
        headers = {
            "content-type": CONTENT_TYPE, "content-disposition": f'attachment; filename="{object_name(export)}"',
            "x-log-day": date_of(export.next_day), "x-log-rows": str(made.rows),
            "webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signatures),
        }  # fmt: skip
        return await self._client.upload(
            "POST", export.target, _blocks(made.path), made.size, headers=headers, field="url",
            timeout_s=UPLOAD_TIMEOUT_S,
        )  # fmt: skip

    async def _put(self, export: LogExport, made: ExportFile) -> int:
        bucket = msgspec.json.decode(export.target, type=Bucket)
        secret = self._cipher.decrypt(export.account_id, export.secret or b"")
        if secret is None:
            raise InvalidRequest("The secret access key cannot be decrypted. Enter it again.")
        url = bucket.url(object_name(export))
        headers = signed_headers(
            bucket, secret.decode(), "PUT", url, made.sha256, self._clock.now_ms(), {"content-type": CONTENT_TYPE}
        )
        return await self._client.upload(
            "PUT", url, _blocks(made.path), made.size, headers=headers, field="endpoint", timeout_s=UPLOAD_TIMEOUT_S
        )


def ready_ms(day: int) -> int:
    """Return when a day is sent."""
    return (day + 1) * MS_PER_DAY + DELAY_MS


def encrypt_secrets_anew(connection: Connection, secret_keys: SecretKeys) -> int:
    """Encrypt the secrets of all buckets under the newest key, and return how many could be decrypted."""
    replace = partial(log_exports.replace_secret, connection)
    return secret_cipher(secret_keys).encrypt_anew(log_exports.all_secrets(connection), replace)


def _write_rows(packed: gzip.GzipFile, rows: list[RecentRequest], form: str) -> None:
    packed.write(encode(rows, form))


class Digest(Protocol):
    """A hash or an HMAC that is being computed."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def digest(self) -> bytes:
        """Return the result."""


def _digest(path: Path, digest: Digest) -> bytes:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.digest()


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    """Yield a file in pieces, read in a thread."""
    file = await EXPORTS.run(_open, path)
    try:
        while block := await EXPORTS.run(file.read, BLOCK_BYTES):
            yield block
    finally:
        file.close()
