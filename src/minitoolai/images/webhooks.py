"""Webhooks for finished image jobs and notices: signed, retried for a day, logged.

The format is that of standardwebhooks.com, so that receivers can use an existing library. Messages come from the
transactional outbox that is written in the commit that ends a job. Delivery is at least once: a receiver recognizes
repeats by the idempotency key `webhook-id`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from minitoolai.core.clock import Clock, generation_name, parse_generation_name
from minitoolai.core.errors import InvalidRequest, NotFound, Overloaded, ServiceError, StoreError
from minitoolai.core.inference import ImageJob
from minitoolai.core.models import Caller
from minitoolai.core.signing import all_keys
from minitoolai.http.auth import authenticate
from minitoolai.http.routing import json_response, reads
from minitoolai.http.validation import check_query
from minitoolai.images.results import Links, job_json
from minitoolai.storage.database import Database
from minitoolai.storage.selling.notices import Notice, find_notice
from minitoolai.storage.tables import outbox
from minitoolai.storage.tables.outbox import DeliveryAttempt, LoggedMessage, WebhookMessage
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: Retry schedule: seconds from one attempt to the next. Eleven attempts, the last almost a day after the first.
DELAYS_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 36_000)
MAX_AGE_MS = 24 * 3600 * 1000
#: How long a claimed message is leased. Afterwards any process may claim it again.
LEASE_MS = 60_000
TIMEOUT_S = 10.0
MAX_CONCURRENT = 32
MAX_CONCURRENT_PER_ACCOUNT = 4
POLL_EVERY_S = 1.0
LOG_RETENTION_MS = 30 * 24 * 3600 * 1000
DELETE_LOG_EVERY_S = 3600.0
#: Messages that the API lists.
LISTED = 100

#: `post(url, body, headers)` through the SSRF-safe client; returns the HTTP status.
Post = Callable[[str, bytes, dict[str, str]], Awaitable[int]]
FindJob = Callable[[int], Awaitable[ImageJob]]


# ── signatures and payload ────────────────────────────────────────────────────────────────────────────────


class WebhookSecrets:
    """The webhook secret of each account. Secrets are derived from the server's secret key and not stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def secret_for(self, account_id: int) -> str:
        """Return the account's secret as `whsec_…`, the format that receivers' libraries take."""
        return "whsec_" + base64.b64encode(_derive(self._key, account_id)).decode()

    def keys_for(self, account_id: int) -> list[bytes]:
        """Return every valid key of the account, the newest first."""
        return [_derive(key, account_id) for key in all_keys(self._key)]

    def sign(self, account_id: int, message_id: str, timestamp: str, body: bytes) -> str:
        """Return the signatures of `id.timestamp.body` as `v1,…`: HMAC-SHA256 in base64, one for each valid key."""
        signed = f"{message_id}.{timestamp}.".encode() + body
        digests = [hmac.digest(_derive(key, account_id), signed, hashlib.sha256) for key in all_keys(self._key)]
        return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def _derive(key: bytes, account_id: int) -> bytes:
    return hmac.digest(key, f"webhooks\0{account_id}".encode(), hashlib.sha256)


def webhook_event(job: ImageJob, links: Links) -> dict[str, Any]:
    """Return the body of a webhook. `id` names the event and is the same in every attempt."""
    event_type = {"succeeded": "image.succeeded", "cancelled": "image.cancelled"}.get(job.state, "image.failed")
    return {
        "id": f"evt-{generation_name(job.job_id)}",
        "type": event_type,
        "created_at": (job.finished_ms or job.created_ms) // 1000,
        "data": {"jobid": job.job_id, **job_json(job, links)},
    }


def notice_event(notice: Notice) -> dict[str, Any]:
    """Return the body of the webhook of a notice, such as `balance.low`."""
    return {
        "id": _event_id(None, notice.id),
        "type": notice.type,
        "created_at": notice.created_ms // 1000,
        "data": msgspec.json.decode(notice.data),
    }


def _event_id(generation_id: int | None, notice_id: int | None) -> str:
    """Return the ID of an event: `evt-gen-…` of a job, `evt-ntc-…` of a notice."""
    if generation_id is not None:
        return f"evt-{generation_name(generation_id)}"
    return f"evt-ntc-{generation_name(notice_id or 0).removeprefix('gen-')}"


# ── delivery ──────────────────────────────────────────────────────────────────────────────────────────────


class WebhookDeliverer:
    """Deliver the messages in the outbox. May run in several processes; each message is claimed under a lease."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        *,
        find_job: FindJob,
        links: Links,
        secrets: WebhookSecrets,
        post: Post,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._find_job = find_job
        self._links = links
        self._secrets = secrets
        self._post = post
        self._sending: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_room = asyncio.Event()

    async def run(self) -> None:
        """Deliver until cancelled. Messages that were being sent then become due again when their lease ends."""
        delete_at_s = 0.0
        try:
            while True:
                try:
                    await self.deliver_due()
                    if self._clock.steady_s() >= delete_at_s:
                        delete_at_s = self._clock.steady_s() + DELETE_LOG_EVERY_S
                        await self._delete_old_log()
                except (StoreError, ServiceError) as error:
                    log.warning("reading due webhooks failed, will retry: %s", error)
                await self._wait_for_room()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def deliver_due(self) -> int:
        """Start to send as many due messages as the limits allow, and return their number.

        The limit per account keeps one account with a slow receiver from delaying the others.
        """
        started = 0
        due_ms = await self._database.read_async(outbox.next_due_ms)
        while due_ms is not None and due_ms <= self._clock.now_ms() and len(self._tasks) < MAX_CONCURRENT:
            limit = min(MAX_CONCURRENT_PER_ACCOUNT, MAX_CONCURRENT - len(self._tasks))
            messages = await self._claim(limit)
            for message in messages:
                self._begin(message)
            started += len(messages)
            if len(messages) < limit:
                break
        return started

    async def _claim(self, limit: int) -> list[WebhookMessage]:
        full = [account for account, count in self._sending.items() if count >= MAX_CONCURRENT_PER_ACCOUNT]
        now_ms = self._clock.now_ms()
        claimed: list[WebhookMessage] = await self._writer.run(
            lambda c: outbox.claim(c, now_ms=now_ms, lease_ms=LEASE_MS, limit=limit, except_accounts=full)
        )
        return claimed

    async def _delete_old_log(self) -> None:
        before_ms = self._clock.now_ms() - LOG_RETENTION_MS
        await self._writer.run(lambda c: outbox.delete_finished(c, before_ms, 1000))

    async def wait_idle(self) -> None:
        """Return when no message is being sent."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _wait_for_room(self) -> None:
        """Wait until the next poll, or until a delivery ends and makes room for waiting messages."""
        self._has_room.clear()
        try:
            async with asyncio.timeout(POLL_EVERY_S):
                await self._has_room.wait()
        except TimeoutError:
            return

    def _begin(self, message: WebhookMessage) -> None:
        self._sending[message.account_id] += 1
        task = asyncio.ensure_future(self._deliver(message))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(message, done))

    def _end(self, message: WebhookMessage, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._sending[message.account_id] -= 1
        if not self._sending[message.account_id]:
            del self._sending[message.account_id]
        self._has_room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("webhook %d: recording the attempt failed, will retry after its lease: %s", message.id, error)

    async def _deliver(self, message: WebhookMessage) -> None:
        """Make one attempt, then record it and the next state of the message."""
        started_ms, started_s = self._clock.now_ms(), self._clock.steady_s()
        status, error, is_final = None, None, False
        try:
            status = await self._send(message, started_ms)
            # 410 Gone: the receiver asks not to be called again.
            is_final = status == 410
        except NotFound:
            error, is_final = "the job or notice has been deleted", True
        except Overloaded as failure:
            raise StoreError(failure.message) from failure
        except ServiceError as failure:
            error = failure.message[:300]
        duration_ms = int((self._clock.steady_s() - started_s) * 1000)
        attempt = DeliveryAttempt(message.attempts, started_ms, duration_ms, status, error)
        state, next_ms = self._next_state(message, status, is_final)
        now_ms = self._clock.now_ms()
        await self._writer.run(
            lambda c: outbox.log_attempt(c, message, attempt, state=state, next_ms=next_ms, now_ms=now_ms)
        )

    async def _send(self, message: WebhookMessage, now_ms: int) -> int:
        event = await self._event(message)
        timestamp = str(now_ms // 1000)
        body = msgspec.json.encode(event)
        headers = {
            "content-type": "application/json",
            "webhook-id": event["id"],
            "webhook-timestamp": timestamp,
            "webhook-signature": self._secrets.sign(message.account_id, event["id"], timestamp, body),
        }
        return await self._post(message.url, body, headers)

    async def _event(self, message: WebhookMessage) -> dict[str, Any]:
        if message.generation_id is not None:
            return webhook_event(await self._find_job(message.generation_id), self._links)
        notice = await self._database.read_async(find_notice, message.notice_id or 0)
        if notice is None:
            raise NotFound("the notice has been deleted")
        return notice_event(notice)

    def _next_state(self, message: WebhookMessage, status: int | None, is_final: bool) -> tuple[str, int]:
        """Return the state of the message and the time of its next attempt."""
        now_ms = self._clock.now_ms()
        if status is not None and 200 <= status < 300:
            return "delivered", now_ms
        if is_final or message.attempts > len(DELAYS_S):
            return "failed", now_ms
        delay_ms = DELAYS_S[message.attempts - 1] * 1000
        # Jitter of up to a tenth, so that receivers that failed together are not retried together. It is derived from
        # the message, so that it is the same in every process.
        delay_ms -= delay_ms * (zlib.crc32(f"{message.id}:{message.attempts}".encode()) % 1000) // 10_000
        if now_ms + delay_ms > message.created_ms + MAX_AGE_MS:
            return "failed", now_ms
        return "pending", now_ms + delay_ms


# ── /api/webhooks ─────────────────────────────────────────────────────────────────────────────────────────


class WebhookLog:
    """Read an account's signing secret and the log of its deliveries."""

    def __init__(self, database: Database, secrets: WebhookSecrets, *, page_size: int = LISTED) -> None:
        self._database = database
        self._secrets = secrets
        self._page_size = page_size

    async def read(self, caller: Caller, before: str | None = None) -> dict[str, Any]:
        """Return the secret and a page of messages as JSON: the newest, or those before the event with this ID.

        Raises InvalidRequest for an ID that no event can have, Overloaded if the database does not respond.
        """
        name = None if before is None else before.removeprefix("evt-").replace("ntc-", "gen-", 1)
        number = None if name is None else parse_generation_name(name)
        if before is not None and number is None:
            raise InvalidRequest("before must be the id of an event in this list, like evt-gen-…", param="before")
        try:
            messages = await self._database.read_async(
                outbox.delivery_log, caller.account_id, self._page_size + 1, number
            )
        except StoreError as error:
            raise Overloaded("the database does not respond; try again", retry_after_s=5) from error
        secret = self._secrets.secret_for(caller.account_id)
        data = [_message_json(message) for message in messages[: self._page_size]]
        return {"object": "list", "secret": secret, "data": data, "has_more": len(messages) > self._page_size}


@reads("/api/webhooks")
async def webhooks(request: Request) -> Response:
    """Return the account's signing secret and its deliveries, newest first, a hundred at a time."""
    caller = await authenticate(request.scope, request.app.state.key_verifier)
    check_query(request.query_params, "before")
    webhook_log = cast(WebhookLog, request.app.state.webhook_log)
    page = await webhook_log.read(caller, request.query_params.get("before"))
    return json_response(page, headers={"cache-control": "no-store"})


def _message_json(message: LoggedMessage) -> dict[str, Any]:
    return {
        "id": _event_id(message.generation_id, message.notice_id),
        "object": "webhook",
        "generation": None if message.generation_id is None else generation_name(message.generation_id),
        "url": message.url,
        "state": message.state,
        "created_at": _iso(message.created_ms),
        "finished_at": _iso(message.finished_ms),
        "next_attempt_at": _iso(message.next_ms) if message.state == "pending" else None,
        "attempts": [_attempt_json(attempt) for attempt in message.attempts],
    }


def _attempt_json(attempt: DeliveryAttempt) -> dict[str, Any]:
    return {
        "at": _iso(attempt.at_ms),
        "status": attempt.status,
        "error": attempt.error,
        "duration_ms": attempt.duration_ms,
    }


def _iso(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
