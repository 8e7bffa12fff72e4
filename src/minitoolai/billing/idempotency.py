"""Run a paid request once per Idempotency-Key.

The same request again gets the stored response; another request with the same key is refused. The first request that is
charged uses up the key. A request that ended without a charge leaves its key free, so a retry runs. A request that was
charged but has no stored response (after a crash or a disconnect) is never run again.
"""

from __future__ import annotations

import hashlib
import zlib

import msgspec

from minitoolai.accounts.keys import check_model
from minitoolai.billing.charging import already_in_flight
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import IdempotencyMismatch, IdempotencySpent, InvalidRequest, Overloaded, StoreError
from minitoolai.core.models import Caller, IdempotencyClaim
from minitoolai.core.threads import RESPONSES
from minitoolai.storage.database import Database
from minitoolai.storage.tables import idempotency
from minitoolai.storage.writer import Writer

MAX_KEY_LENGTH = 255
#: Do not store larger responses. The same request again then gets an error saying that it was charged.
MAX_RESPONSE_BYTES = 32 * 1024 * 1024


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

    async def store(self, claim: IdempotencyClaim, response: RecordedResponse) -> None:
        """Store the response. After this returns, a repeated request gets it even if this process crashes."""
        hold_id = claim.hold_id
        if hold_id is None or len(response.body) > MAX_RESPONSE_BYTES:
            return
        if not self._store_responses:
            await self.flush()
            return
        headers = msgspec.json.encode(response.headers).decode()
        body = await RESPONSES.run(zlib.compress, response.body, 1)
        stored = idempotency.StoredResponse(response.status, headers, body)
        await self._writer.run(lambda connection: idempotency.store_response(connection, claim.id, hold_id, stored))

    async def flush(self) -> None:
        """Wait until all queued ledger writes are committed, so that a refused request leaves its key free."""
        await self._writer.run(lambda _: None)

    def release(self, claim: IdempotencyClaim) -> None:
        """Release the claim: the request has ended in this process."""
        self._in_flight.pop(claim.id, None)


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
