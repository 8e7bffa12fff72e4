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

import msgspec

from minitoolai.accounts.keys import check_model
from minitoolai.billing.charging import already_in_flight
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import IdempotencyMismatch, IdempotencySpent, InvalidRequest, Overloaded, StoreError
from minitoolai.core.models import Caller, IdempotencyClaim, StoredResponse
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
            raise Overloaded(
                "The ledger cannot be read at the moment. Nothing was charged; try again.", retry_after_s=5
            ) from error
        self._check_in_flight(claim)
        if row is not None and not row.state.is_free(self._clock.now_ms()):
            return await self._existing_result(caller, row, fingerprint)
        self._in_flight[claim.id] = fingerprint
        return claim

    def _check_in_flight(self, claim: IdempotencyClaim) -> None:
        first = self._in_flight.get(claim.id)
        if first is not None:
            raise already_in_flight() if first == claim.fingerprint else _mismatch()

    async def _existing_result(
        self, caller: Caller, row: idempotency.IdempotencyRow, fingerprint: bytes
    ) -> RecordedResponse:
        if row.fingerprint != fingerprint:
            raise _mismatch()
        # Another key of the account may have made the request. Budgets are not checked: a replay costs nothing.
        if row.model is not None:
            check_model(caller, row.model)
        if row.response is not None:
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


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch(
        "This Idempotency-Key was already used for a different request in the last 24 hours. Send a new key.",
        param="Idempotency-Key",
    )
