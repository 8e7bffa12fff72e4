"""Telling the end of a job to the address that its owner left: signed, retried for a day, logged.

The form is that of standardwebhooks.com, so that receivers need no code of ours. Delivery is at least once: a receiver
tells repeats by `webhook-id`.
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

from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import NotFound, Overloaded, ServiceError, StoreError
from minitoolai.core.inference import ImageJob
from minitoolai.core.models import Caller
from minitoolai.core.signing import all_keys
from minitoolai.http.auth import authenticate
from minitoolai.http.routing import json_response, reads
from minitoolai.images.results import Links
from minitoolai.images.results import body as job_body
from minitoolai.storage import outbox
from minitoolai.storage.database import Database
from minitoolai.storage.outbox import DeliveryAttempt, LoggedMessage, WebhookMessage
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: Seconds from one attempt to the next: eleven in all, the last a day after the first, or nearly.
DELAYS_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 36_000)
LONGEST_MS = 24 * 3600 * 1000
#: Whoever claims a message has this long; then it is due again, for whoever is there.
LEASE_MS = 60_000
ANSWER_WITHIN_S = 10.0
AT_ONCE = 32
AT_ONCE_OF_ONE = 4
LOOK_EVERY_S = 1.0
LOG_KEPT_MS = 30 * 24 * 3600 * 1000
FORGET_EVERY_S = 3600.0


#: `post(url, body, headers)` under the rules for addresses that strangers chose; the status of the answer.
Post = Callable[[str, bytes, dict[str, str]], Awaitable[int]]
Find = Callable[[int], Awaitable[ImageJob]]


class WebhookSecrets:
    """Each account's own, made from one key and stored nowhere."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, account_id: int) -> str:
        """`whsec_…`, as receivers' libraries take it."""
        return "whsec_" + base64.b64encode(_of(self._key, account_id)).decode()

    def sign(self, account_id: int, message_id: str, timestamp: str, body: bytes) -> str:
        """`v1,…`: HMAC-SHA256 of `id.timestamp.body` in base64; one for each secret that a receiver may have."""
        signed = f"{message_id}.{timestamp}.".encode() + body
        digests = [hmac.digest(_of(key, account_id), signed, hashlib.sha256) for key in all_keys(self._key)]
        return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def _of(key: bytes, account_id: int) -> bytes:
    return hmac.digest(key, f"webhooks\0{account_id}".encode(), hashlib.sha256)


class WebhookDeliverer:
    """Takes what is due from the outbox, wherever the job ended; may run in several processes."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        *,
        find: Find,
        links: Links,
        secrets: WebhookSecrets,
        post: Post,
        delays_s: tuple[int, ...] = DELAYS_S,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._find = find
        self._links = links
        self._secrets = secrets
        self._post = post
        self._delays_s = delays_s
        self._busy: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; what was being sent then is due again when its lease ends."""
        forget_at_s = 0.0
        try:
            while True:
                try:
                    await self.deliver_due()
                    if self._clock.steady_s() >= forget_at_s:
                        forget_at_s = self._clock.steady_s() + FORGET_EVERY_S
                        await self._writer.run(
                            lambda c: outbox.delete_finished(c, self._clock.now_ms() - LOG_KEPT_MS, 1000)
                        )
                except (StoreError, ServiceError) as error:
                    log.warning("webhooks could not be looked at: %s", error)
                await self._pause()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def deliver_due(self) -> int:
        """Begin to send what is due and fits; how many. An account with many messages leaves room for others."""
        begun = 0
        due_ms = await self._database.read_async(outbox.next_due_ms)
        while due_ms is not None and due_ms <= self._clock.now_ms() and len(self._tasks) < AT_ONCE:
            most = min(AT_ONCE_OF_ONE, AT_ONCE - len(self._tasks))
            messages = await self._claim(most)
            for message in messages:
                self._begin(message)
            begun += len(messages)
            if len(messages) < most:
                break
        return begun

    async def _claim(self, most: int) -> list[WebhookMessage]:
        full = [account for account, count in self._busy.items() if count >= AT_ONCE_OF_ONE]
        now_ms = self._clock.now_ms()
        claimed: list[WebhookMessage] = await self._writer.run(
            lambda c: outbox.claim(c, now_ms=now_ms, lease_ms=LEASE_MS, limit=most, except_accounts=full)
        )
        return claimed

    async def wait_idle(self) -> None:
        """Returns when nothing is being sent."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _pause(self) -> None:
        """Until the next look, or until there is room again for what waits."""
        self._freed.clear()
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._freed.wait()
        except TimeoutError:
            return

    def _begin(self, message: WebhookMessage) -> None:
        self._busy[message.account_id] += 1
        task = asyncio.ensure_future(self._deliver(message))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._end(message, done))

    def _end(self, message: WebhookMessage, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._busy[message.account_id] -= 1
        if not self._busy[message.account_id]:
            del self._busy[message.account_id]
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease ends, and it is tried again.
            log.error("webhook %d could not be handled: %s", message.id, error)

    async def _deliver(self, message: WebhookMessage) -> None:
        """One attempt, and what follows from it."""
        began_ms, began_s = self._clock.now_ms(), self._clock.steady_s()
        status, error, is_final = None, None, False
        try:
            status = await self._send(message, began_ms)
            # 410: the receiver asks never to be called again.
            is_final = status == 410
        except NotFound:
            error, is_final = "the job is not in the books any more", True
        except Overloaded as failure:
            raise StoreError(failure.message) from failure
        except ServiceError as failure:
            error = failure.message[:300]
        took_ms = int((self._clock.steady_s() - began_s) * 1000)
        attempt = DeliveryAttempt(message.attempts, began_ms, took_ms, status, error)
        state, next_ms = self._what_next(message, status, is_final)
        now_ms = self._clock.now_ms()
        await self._writer.run(
            lambda c: outbox.log_attempt(c, message, attempt, state=state, next_ms=next_ms, now_ms=now_ms)
        )

    async def _send(self, message: WebhookMessage, now_ms: int) -> int:
        job = await self._find(message.generation_id)
        data = event(job, self._links)
        timestamp = str(now_ms // 1000)
        headers = {
            "content-type": "application/json",
            "webhook-id": data["id"],
            "webhook-timestamp": timestamp,
        }
        raw = msgspec.json.encode(data)
        headers["webhook-signature"] = self._secrets.sign(message.account_id, data["id"], timestamp, raw)
        return await self._post(message.url, raw, headers)

    def _what_next(self, message: WebhookMessage, status: int | None, is_final: bool) -> tuple[str, int]:
        """State and moment of the next attempt."""
        now_ms = self._clock.now_ms()
        if status is not None and 200 <= status < 300:
            return "delivered", now_ms
        if is_final or message.attempts > len(self._delays_s):
            return "failed", now_ms
        delay_ms = self._delays_s[message.attempts - 1] * 1000
        # Receivers that fail together are not called together again: up to a tenth sooner, from the message itself.
        delay_ms -= delay_ms * (zlib.crc32(f"{message.id}:{message.attempts}".encode()) % 1000) // 10_000
        if now_ms + delay_ms > message.created_ms + LONGEST_MS:
            return "failed", now_ms
        return "pending", now_ms + delay_ms


class WebhookLog:
    """What an account may know of its webhooks."""

    def __init__(self, database: Database, secrets: WebhookSecrets) -> None:
        self._database = database
        self._secrets = secrets

    def secret_of(self, caller: Caller) -> str:
        """What the account's receivers check signatures with."""
        return self._secrets.of(caller.account_id)

    async def last(self, caller: Caller, most: int) -> list[LoggedMessage]:
        """The last messages, newest first. Overloaded where the database cannot tell."""
        try:
            return await self._database.read_async(outbox.delivery_log, caller.account_id, most)
        except StoreError as error:
            raise Overloaded("the database does not answer; try again", retry_after_s=5) from error


def event(job: ImageJob, links: Links) -> dict[str, Any]:
    """The body of a webhook. `id` names the event: a repeat has the same."""
    kind = {"succeeded": "image.succeeded", "cancelled": "image.cancelled"}.get(job.state, "image.failed")
    return {
        "id": f"evt-{generation_name(job.job_id)}",
        "type": kind,
        "created_at": (job.finished_ms or job.created_ms) // 1000,
        "data": {"jobid": job.job_id, **job_body(job, links)},
    }


# (merged from webhooks_webhooks) What an account needs to receive webhooks: the secret that they are signed with, and how their delivery went.

LISTED = 100


@reads("/api/webhooks")
async def webhooks(request: Request) -> Response:
    """The account's signing secret and its last deliveries, newest first."""
    caller = await authenticate(request.scope, request.app.state.key_verifier)
    log = cast(WebhookLog, request.app.state.webhook_log)
    messages = await log.last(caller, LISTED)
    body = {"object": "list", "secret": log.secret_of(caller), "data": [_message(message) for message in messages]}
    return json_response(body, headers={"cache-control": "no-store"})


def _message(message: LoggedMessage) -> dict[str, Any]:
    return {
        "id": f"evt-{generation_name(message.generation_id)}",
        "object": "webhook",
        "generation": generation_name(message.generation_id),
        "url": message.url,
        "state": message.state,
        "created_at": _iso(message.created_ms),
        "finished_at": _iso(message.finished_ms),
        "next_attempt_at": _iso(message.next_ms) if message.state == "pending" else None,
        "attempts": [_attempt(attempt) for attempt in message.attempts],
    }


def _attempt(attempt: DeliveryAttempt) -> dict[str, Any]:
    return {
        "at": _iso(attempt.at_ms),
        "status": attempt.status,
        "error": attempt.error,
        "duration_ms": attempt.duration_ms,
    }


def _iso(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
