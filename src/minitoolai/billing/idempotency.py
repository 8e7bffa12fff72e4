"""Run a paid request once per Idempotency-Key.

The same request again gets the stored response; another request with the same key is refused. The first request that is
charged uses up the key. A request that ended without a charge leaves its key free, so a retry runs. A request that was
charged but has no stored response (killed in mid-stream) is never run again.

The commit of a charge stores the response as well: `encode` makes it beforehand. So no machine can be lost between the
two. Responses that are only known later are stored by `store`.
"""

from __future__ import annotations

import hashlib
import zlib
from functools import partial

import msgspec

from minitoolai.accounts.keys import check_model
from minitoolai.billing.charging import already_in_flight
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import IdempotencyMismatch, IdempotencySpent, InvalidRequest, Overloaded, StoreError
from minitoolai.core.models import JOBS_SUBMITTED, Caller, IdempotencyClaim, StoredResponse
from minitoolai.core.threads import RESPONSES
from minitoolai.storage.database import Database
from minitoolai.storage.tables import idempotency
from minitoolai.storage.writer import Writer

MAX_KEY_LENGTH = 255
#: Do not store larger responses. The same request again then gets an error saying that it was charged.
MAX_RESPONSE_BYTES = 32 * 1024 * 1024


#: Compress a response of at most this size on the event loop: a thread would take longer.
INLINE_BYTES = 32 * 1024


class RecordedResponse(msgspec.Struct, frozen=True):
    """A response as it was sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class IdempotencyStore:
    """The idempotency keys of this process's in-flight requests, and those in the database."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, *, store_responses: bool = True) -> None:
        """Store the collaborators.

        Without `store_responses` a key only prevents a second charge; nothing is replayed.
        """
        self._store_responses = store_responses
        self._database = database
        self._writer = writer
        self._clock = clock
        #: Fingerprints of this process's in-flight requests. The database holds those of other processes.
        self._in_flight: dict[str, bytes] = {}

    async def claim(self, caller: Caller, name: str, request: bytes) -> IdempotencyClaim | RecordedResponse:
        """Claim the key for this request, or return the response stored for it. `release` gives the claim back.

        `request` holds everything that distinguishes the request. Raises IdempotencyMismatch, IdempotencyInFlight,
        IdempotencySpent, KeyForbids if the API key may not use the model of the stored response, and InvalidRequest if
        the Idempotency-Key is malformed.
        """
        _check_name(name)
        fingerprint = await _fingerprint(request)
        claim = IdempotencyClaim(f"{caller.account_id}/{name}", fingerprint)
        self._check_in_flight(claim)
        try:
            row = await self._database.read_async(idempotency.find, claim.id)
        except StoreError as error:
            raise _unreadable() from error
        self._check_in_flight(claim)
        if row is not None and not row.state.is_free(self._clock.now_ms()):
            known = await self._existing_result(caller, row, fingerprint)
            if isinstance(known, RecordedResponse):
                return known
            self._check_in_flight(claim)
            claim = await self._resume(claim, row.hold_id, known)
            self._check_in_flight(claim)
        self._in_flight[claim.id] = fingerprint
        return claim

    async def _resume(self, claim: IdempotencyClaim, hold_id: int, job_ids: list[int]) -> IdempotencyClaim:
        """Return a claim that goes on waiting for jobs or, if all have failed, one that is new."""
        try:
            left = await self._database.read_async(idempotency.unfailed_jobs, job_ids)
            if not left:
                await self._writer.run(partial(idempotency.forget_jobs, claim_id=claim.id, hold_id=hold_id))
                return claim
        except StoreError as error:
            raise _unreadable() from error
        return msgspec.structs.replace(claim, hold_id=hold_id, job_ids=tuple(one for one in job_ids if one in left))

    def _check_in_flight(self, claim: IdempotencyClaim) -> None:
        first = self._in_flight.get(claim.id)
        if first is not None:
            raise already_in_flight() if first == claim.fingerprint else _mismatch()

    async def _existing_result(
        self, caller: Caller, row: idempotency.IdempotencyRow, fingerprint: bytes
    ) -> RecordedResponse | list[int]:
        """Return the stored response, or the jobs for which its request waited when its process was lost."""
        if row.fingerprint != fingerprint:
            raise _mismatch()
        # Another key of the account may have made the request. Budgets are not checked: a replay costs nothing.
        if row.model is not None:
            check_model(caller, row.model)
        is_waiting = row.response is not None and row.response.status == JOBS_SUBMITTED
        if row.response is not None and is_waiting and row.state.hold_state != "pending":
            return msgspec.json.decode(zlib.decompress(row.response.body), type=list[int])
        if row.response is not None and not is_waiting:
            headers = msgspec.json.decode(row.response.headers, type=list[tuple[str, str]])
            return RecordedResponse(
                row.response.status, headers, await RESPONSES.run(zlib.decompress, row.response.body)
            )
        if row.state.hold_state == "pending":
            raise already_in_flight()
        raise IdempotencySpent(
            "The first request with this Idempotency-Key was charged, but its response is not stored. See "
            f"/v1/generations/{generation_name(row.hold_id)}. To run the request again, send a new key.",
            param="Idempotency-Key",
        )

    async def encode(self, response: RecordedResponse) -> StoredResponse | None:
        """Return what to store with the charge, or None if the response is too large or none is stored."""
        if len(response.body) <= INLINE_BYTES:
            return self.encode_now(response)
        if not self._stores(response):
            return None
        return _stored(response, await RESPONSES.run(zlib.compress, response.body, 1))

    def encode_now(self, response: RecordedResponse) -> StoredResponse | None:
        """Do what `encode` does, without a thread: a large body stays as large as it is."""
        if not self._stores(response):
            return None
        return _stored(response, zlib.compress(response.body, 1 if len(response.body) <= INLINE_BYTES else 0))

    def _stores(self, response: RecordedResponse) -> bool:
        return self._store_responses and len(response.body) <= MAX_RESPONSE_BYTES

    def encode_jobs(self, job_ids: list[int]) -> StoredResponse | None:
        """Return what to store with the first of these jobs, so that a repeated request can wait for all of them."""
        return self.encode_now(RecordedResponse(JOBS_SUBMITTED, [], msgspec.json.encode(job_ids)))

    async def store(self, claim: IdempotencyClaim, response: RecordedResponse) -> None:
        """Store the response. After this returns, a repeated request gets it even if this process crashes."""
        hold_id = claim.hold_id
        if hold_id is None or len(response.body) > MAX_RESPONSE_BYTES:
            return
        stored = await self.encode(response)
        if stored is None:
            await self.flush()
            return
        await self._writer.run(lambda connection: idempotency.store_response(connection, claim.id, hold_id, stored))

    async def flush(self) -> None:
        """Wait until all queued ledger writes are committed, so that a refused request leaves its key free."""
        await self._writer.run(lambda _: None)

    def release(self, claim: IdempotencyClaim) -> None:
        """Release the claim: the request has ended in this process."""
        self._in_flight.pop(claim.id, None)


def _stored(response: RecordedResponse, body: bytes) -> StoredResponse:
    return StoredResponse(response.status, msgspec.json.encode(response.headers).decode(), body)


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_KEY_LENGTH or not name.isascii() or not name.isprintable():
        raise InvalidRequest(
            f"Idempotency-Key must have 1 to {MAX_KEY_LENGTH} printable ASCII characters, such as a UUID",
            param="Idempotency-Key",
        )


async def _fingerprint(request: bytes) -> bytes:
    if len(request) < 65_536:
        return hashlib.sha256(request).digest()
    return await RESPONSES.run(lambda: hashlib.sha256(request).digest())


def _unreadable() -> Overloaded:
    return Overloaded("The ledger cannot be read at the moment. Nothing was charged; try again.", retry_after_s=5)


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch(
        "This Idempotency-Key was already used for a different request in the last 24 hours. Send a new key.",
        param="Idempotency-Key",
    )
