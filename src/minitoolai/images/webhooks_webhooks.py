"""What an account needs to receive webhooks: the secret that they are signed with, and how their delivery went."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from litestar import Request, Response
from litestar.datastructures import State

from minitoolai.core.clock import generation_name
from minitoolai.http.auth import authenticate
from minitoolai.http.reading import reads
from minitoolai.images.webhooks import WebhookLog
from minitoolai.storage.outbox import Attempt, Logged

LISTED = 100


@reads("/api/webhooks")
async def webhooks(request: Request[Any, Any, State]) -> Response[Any]:
    """The account's signing secret and its last deliveries, newest first."""
    caller = await authenticate(request.scope, request.app.state.keyring)
    log = cast(WebhookLog, request.app.state.webhook_log)
    messages = await log.last(caller, LISTED)
    body = {"object": "list", "secret": log.secret_of(caller), "data": [_message(message) for message in messages]}
    return Response(body, headers={"cache-control": "no-store"})


def _message(message: Logged) -> dict[str, Any]:
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


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "at": _iso(attempt.at_ms),
        "status": attempt.status,
        "error": attempt.error,
        "duration_ms": attempt.duration_ms,
    }


def _iso(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
