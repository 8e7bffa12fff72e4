"""One paid request under one Idempotency-Key: the same again gets the same answer, another one is refused.

A key is used up by the first request that is charged. One that ended without a charge leaves its key free, so that the
retry runs; one that was charged without an answer that could be kept (a crash, a caller who left) is never run again.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib

import msgspec

from minitoolai.billing.charging import already_in_flight
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import IdempotencyMismatch, IdempotencySpent, InvalidRequest, Overloaded, StoreError
from minitoolai.core.models import Caller, IdempotencyClaim
from minitoolai.storage import idempotency
from minitoolai.storage.database import Database
from minitoolai.storage.writer import Writer

LONGEST_NAME = 255
#: An answer larger than this is not kept; the same request again is then told that it was charged.
LARGEST_ANSWER = 32 * 1024 * 1024


class RecordedResponse(msgspec.Struct, frozen=True):
    """An answer as it was sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class IdempotencyStore:
    """The Idempotency-Keys of this process's requests, and those in the database."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, *, store_responses: bool = True) -> None:
        """Without `keeps_answers` a key stands for a charge alone: its request is run once and cannot be replayed."""
        self._keeps_answers = store_responses
        self._database = database
        self._writer = writer
        self._clock = clock
        #: Those at work in this process; the database knows of the others.
        self._under_way: dict[str, bytes] = {}

    async def claim(self, caller: Caller, name: str, request: bytes) -> IdempotencyClaim | RecordedResponse:
        """The right to run this request, to be given back by `release`; or the answer that it had before.

        `request` is all of it that matters. IdempotencyMismatch, IdempotencyInFlight, IdempotencySpent,
        InvalidRequest for a name that is none.
        """
        _check_name(name)
        fingerprint = await _fingerprint(request)
        claim = IdempotencyClaim(f"{caller.account_id}/{name}", fingerprint)
        self._check_under_way(claim)
        try:
            found = await self._database.read_async(idempotency.find, claim.id)
        except StoreError as error:
            raise Overloaded("the ledger cannot be read just now; nothing was charged", retry_after_s=5) from error
        self._check_under_way(claim)
        if found is not None and not found.state.is_free(self._clock.now_ms()):
            return await self._judge(found, fingerprint)
        self._under_way[claim.id] = fingerprint
        return claim

    def _check_under_way(self, claim: IdempotencyClaim) -> None:
        first = self._under_way.get(claim.id)
        if first is not None:
            raise already_in_flight() if first == claim.fingerprint else _mismatch()

    async def _judge(self, found: idempotency.IdempotencyRow, fingerprint: bytes) -> RecordedResponse:
        if found.fingerprint != fingerprint:
            raise _mismatch()
        if found.response is not None:
            headers = msgspec.json.decode(found.response.headers, type=list[tuple[str, str]])
            return RecordedResponse(
                found.response.status, headers, await asyncio.to_thread(zlib.decompress, found.response.body)
            )
        if found.state.hold_state == "pending":
            raise already_in_flight()
        raise IdempotencySpent(
            "the first request with this Idempotency-Key was charged, and its answer is not kept; "
            f"see /v1/generations/{generation_name(found.hold_id)}, and send another key to run it again",
            param="Idempotency-Key",
        )

    async def keep(self, claim: IdempotencyClaim, answer: RecordedResponse) -> None:
        """Write the answer down; once this returns, the same request gets it again, whatever happens to us."""
        hold_id = claim.hold_id
        if hold_id is None or len(answer.body) > LARGEST_ANSWER:
            return
        if not self._keeps_answers:
            await self.settled()
            return
        headers = msgspec.json.encode(answer.headers).decode()
        body = await asyncio.to_thread(zlib.compress, answer.body, 1)
        kept = idempotency.StoredResponse(answer.status, headers, body)
        await self._writer.run(lambda connection: idempotency.store_response(connection, claim.id, hold_id, kept))

    async def settled(self) -> None:
        """Return once whatever was queued for the ledger before is written: a refusal then leaves its key free."""
        await self._writer.run(lambda _: None)

    def release(self, claim: IdempotencyClaim) -> None:
        """The request is over, here."""
        self._under_way.pop(claim.id, None)


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= LONGEST_NAME or not name.isascii() or not name.isprintable():
        raise InvalidRequest(
            f"Idempotency-Key must have 1 to {LONGEST_NAME} printable ASCII characters, such as a UUID",
            param="Idempotency-Key",
        )


async def _fingerprint(request: bytes) -> bytes:
    if len(request) < 65_536:
        return hashlib.sha256(request).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(request).digest())


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch(
        "this Idempotency-Key was sent with another request within 24 hours; send a new key with a new request",
        param="Idempotency-Key",
    )
