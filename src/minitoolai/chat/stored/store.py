"""Keep responses for a time, encrypted, and read conversations from them.

When a response is stored. A response that is generated at once is written in the turn of the event loop in which its
charge is queued, before the end of the response is sent. On SQLite both share one commit; on PostgreSQL the response
commits first, then the charge. So a client that has received a complete response can always refer to it, and a
response that was not charged is never found: rows count only if their generation has succeeded
(storage/tables/responses.py). A crash in between leaves a row that never counts and is deleted when it expires.
Compression and encryption run in a thread, before the charge.

A background response is stored before its charge, because no client is waiting for it: see background.py.

A response holds only its own input and output, and the ID of the response that it continues. So a conversation of a
hundred turns is stored once, and read back turn by turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from minitoolai.accounts.keys import check_model
from minitoolai.chat.stored.items import (
    REFERENCE,
    ItemPlace,
    input_list,
    parse_item_name,
    parse_response_name,
    references_in,
    response_name,
    type_of,
    with_names,
)
from minitoolai.chat.stored.vault import ResponseVault, StoredRequest
from minitoolai.core.clock import Clock, created_ms
from minitoolai.core.errors import InvalidRequest, NotFound
from minitoolai.core.models import Caller
from minitoolai.core.signing import SecretKeys
from minitoolai.core.threads import RESPONSES
from minitoolai.http.bodies.bodies import LARGEST_BODY
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import responses
from minitoolai.storage.tables.responses import Content, NewResponse, StoredRow
from minitoolai.storage.writer import Writer

Json = dict[str, Any]
MB = 1024 * 1024
MS_PER_HOUR = 3_600_000
#: Turns of one conversation that are read back. A longer one must be sent as input.
MAX_TURNS = 1000
#: Bytes of stored JSON that one request may refer to.
MAX_CONVERSATION_BYTES = LARGEST_BODY
_encode = msgspec.json.Encoder().encode


class History(msgspec.Struct, frozen=True):
    """What a request refers to: the items of the conversation that it continues, and single items by ID."""

    items: list[Json] = []
    references: dict[str, Json] = {}
    #: Bytes of the JSON from which they were read.
    size: int = 0


NO_HISTORY = History()


class ResponseStore:
    """The stored responses of all accounts. Every method that reads finds only those of its caller."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        secret_keys: SecretKeys,
        *,
        retention_hours: float,
        most_bytes: int,
    ) -> None:
        """`most_bytes`: of one account. Beyond it, its oldest responses are deleted."""
        self._database = database
        self.writer = writer
        self._clock = clock
        self._vault = ResponseVault(secret_keys)
        self._retention_ms = int(retention_hours * MS_PER_HOUR)
        self._most_bytes = most_bytes

    @property
    def keeps(self) -> bool:
        """Return True if this server stores responses at all."""
        return self._retention_ms > 0

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────

    async def seal(
        self, account_id: int, number: int, model: str, request: StoredRequest, response: bytes, previous: int | None,
        *, is_background: bool = False,
    ) -> NewResponse:  # fmt: skip
        """Return the row of a response: compressed and encrypted, in a thread."""

        def make() -> NewResponse:
            plain, now_ms = _encode(request), self._clock.now_ms()
            return NewResponse(
                id=number,
                account_id=account_id,
                previous_id=previous,
                model=model,
                is_background=is_background,
                created_ms=created_ms(number),
                expires_ms=now_ms + self._retention_ms,
                request_bytes=len(plain),
                response_bytes=len(response),
                request=self._vault.seal(account_id, number, "request", plain),
                response=self._vault.seal(account_id, number, "response", response),
            )

        return await RESPONSES.run(make)

    def submit(self, row: NewResponse) -> asyncio.Future[bool]:
        """Queue the row for the next commit, not after a charge that is queued later. Return a future of its result."""
        change = partial(responses.insert, row=row, most_bytes=self._most_bytes)
        stored = self.writer.submit_change(change, is_first=True)
        # A response that fails for another reason does not wait for this one.
        stored.add_done_callback(_retrieve)
        return stored

    async def save(self, account_id: int, number: int, attempt: int, response: bytes) -> bool:
        """Store output or error of a background response. False if the attempt was superseded, or the row is gone."""
        sealed = await RESPONSES.run(self._vault.seal, account_id, number, "response", response)
        change = partial(responses.save, response_id=number, attempt=attempt, size=len(response), response=sealed)
        saved: bool = await self.writer.run(change)
        return saved

    async def delete(self, caller: Caller, name: str) -> None:
        """Delete a response of the caller. Raises NotFound."""
        row = await self.find(caller, name)
        now_ms = self._clock.now_ms()
        if not await self.writer.run(lambda c: responses.delete(c, row.id, caller.account_id, now_ms)):
            raise not_found(name)

    async def discard(self, account_id: int, number: int) -> None:
        """Delete the row of a refused generation."""
        await self.writer.run(lambda c: responses.delete(c, number, account_id, 0))

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, caller: Caller, name: str) -> StoredRow:
        """Return a response of the caller. Raises NotFound, and KeyForbids if the key may not use its model."""
        number = parse_response_name(name)
        row = None
        if number is not None:
            row = await self._database.read_async(responses.find, number, caller.account_id, self._clock.now_ms())
        if row is None:
            raise not_found(name)
        check_model(caller, row.model)
        return row

    async def response(self, row: StoredRow) -> Json:
        """Return the object of a response in its present state."""
        found = await RESPONSES.run(self._vault.read_response, row.account_id, row.id, row.response)
        if found is None:
            raise not_found(response_name(row.id))
        return in_state(found, row)

    async def input_items(self, caller: Caller, name: str) -> list[Json]:
        """Return the input items of a response, each with an ID. References to items that are gone stay references."""
        row = await self.find(caller, name)
        now_ms = self._clock.now_ms()
        sealed = await self._database.read_async(responses.request_of, row.id, caller.account_id, now_ms)
        request = None
        if sealed is not None:
            request = await RESPONSES.run(self._vault.read_request, caller.account_id, row.id, sealed)
        if request is None:
            raise not_found(name)
        items = with_names(row.id, request.input)
        found, _ = await self._items(caller, references_in(items), known={}, strict=False)
        return [found.get(item["id"], item) for item in items]

    async def history(self, caller: Caller, previous: str | None, references: Sequence[str]) -> History:
        """Return what a request refers to. Raises NotFound, InvalidRequest.

        `previous` is the response that it continues; `references` are the IDs of single items.
        """
        contents: dict[int, tuple[StoredRequest, Json]] = {}
        size = 0
        if previous is not None:
            contents, size = await self._turns(caller, previous)
        listed = [*references, *(name for request, _ in contents.values() for name in references_in(request.input))]
        found, more = await self._items(caller, listed, known=contents, strict=True)
        items: list[Json] = []
        for request, response in contents.values():
            items += (found[item["id"]] if type_of(item) == REFERENCE else item for item in input_list(request.input))
            items += response["output"]
        return History(items, found, size + more)

    async def _turns(self, caller: Caller, previous: str) -> tuple[dict[int, tuple[StoredRequest, Json]], int]:
        """Return request and response of each turn of a conversation, oldest first, and their bytes."""
        number, account_id, now_ms = parse_response_name(previous), caller.account_id, self._clock.now_ms()
        if number is None:
            raise _no_previous(previous)

        def read(connection: Connection) -> tuple[StoredRow | None, list[responses.Turn]]:
            row = responses.find(connection, number, account_id, now_ms)
            if row is None or row.state != "succeeded":
                return row, []
            return row, responses.turns(connection, number, account_id, now_ms, MAX_TURNS + 1)

        row, turns = await self._database.read_async(read)
        if row is None:
            raise _no_previous(previous)
        _check_continues(row, previous)
        if len(turns) > MAX_TURNS:
            raise InvalidRequest(
                f"previous_response_id: the conversation has more than {MAX_TURNS} turns. Send it as input.",
                param="previous_response_id",
            )
        for turn in turns:
            check_model(caller, turn.model)
        first = turns[-1].previous_id if turns else number
        if first is not None:
            raise _no_previous(previous, response_name(first))
        size = sum(turn.bytes for turn in turns)
        _check_size(size, "previous_response_id")
        found = await self._contents(account_id, [turn.id for turn in turns])
        if len(found) < len(turns):
            gone = next(turn.id for turn in turns if turn.id not in found)
            raise _no_previous(previous, response_name(gone))
        return {turn.id: found[turn.id] for turn in reversed(turns)}, size

    async def _items(
        self, caller: Caller, names: Iterable[str], *, known: dict[int, tuple[StoredRequest, Json]], strict: bool
    ) -> tuple[dict[str, Json], int]:
        """Return the items with these IDs, and the bytes read. `strict`: raise NotFound for one that is not stored."""
        places, size = {name: parse_item_name(name) for name in names}, 0
        missing = sorted({place.response for place in places.values() if place is not None} - known.keys())
        if len(missing) > MAX_TURNS:
            raise InvalidRequest(
                f"input refers to items of {len(missing)} responses, and at most {MAX_TURNS} are read. Send the items "
                "themselves.",
                param="input",
            )
        if missing:
            sizes = await self._database.read_async(responses.sizes, missing)
            with_input = {place.response for place in places.values() if place is not None and place.is_input}
            size = sum(s.response + (s.request if s.id in with_input else 0) for s in sizes)
            _check_size(size, "input")
            contents = known | await self._contents(caller.account_id, missing, caller, with_input)
        else:
            contents = known
        found: dict[str, Json] = {}
        for name, place in places.items():
            item = None if place is None else _item_at(place, name, contents.get(place.response))
            if item is not None:
                found[name] = item
            elif strict:
                raise NotFound(
                    f"Item with id '{name[:100]}' not found. Items are kept for a limited time, and not at all with "
                    "store set to false. Send the item itself; a client does so if its store option is false.",
                    param="input",
                )
        return found, size

    async def _contents(
        self, account_id: int, ids: Sequence[int], caller: Caller | None = None, with_input: set[int] | None = None
    ) -> dict[int, tuple[StoredRequest, Json]]:
        """Return request and response of these responses. One that cannot be decrypted any more is left out."""
        rows = await self._database.read_async(responses.contents, ids, account_id, self._clock.now_ms())
        if caller is not None:
            for row in rows:
                check_model(caller, row.model)
        return await RESPONSES.run(self._read_all, account_id, rows, with_input)

    def _read_all(
        self, account_id: int, rows: list[Content], with_input: set[int] | None
    ) -> dict[int, tuple[StoredRequest, Json]]:
        found = {}
        for row in rows:
            request: StoredRequest | None = StoredRequest([])
            if with_input is None or row.id in with_input:
                request = self._vault.read_request(account_id, row.id, row.request)
            response = self._vault.read_response(account_id, row.id, row.response)
            if request is not None and response is not None:
                found[row.id] = request, response
        return found

    async def request_of(self, account_id: int, number: int, sealed: bytes) -> StoredRequest | None:
        """Return the request of a background response, or None if no key of the ring decrypts it."""
        return await RESPONSES.run(self._vault.read_request, account_id, number, sealed)

    async def read_response(self, account_id: int, number: int, sealed: bytes) -> Json | None:
        """Return the object of a response as it was stored."""
        return await RESPONSES.run(self._vault.read_response, account_id, number, sealed)


def _item_at(place: ItemPlace, name: str, content: tuple[StoredRequest, Json] | None) -> Json | None:
    """Return an item of a stored response, or None."""
    if content is None:
        return None
    request, response = content
    if not place.is_input:
        return next((item for item in response["output"] if item.get("id") == name), None)
    return next((item for item in with_names(place.response, request.input) if item["id"] == name), None)


def in_state(response: Json, row: StoredRow) -> Json:
    """Return the object of a response with its present status. Only the status of a background response changes."""
    if not row.is_background:
        return response
    if row.cancelled_ms is not None or row.state == "cancelled":
        return response | {"status": "cancelled"}
    if row.state == "failed":
        message = f"The response failed ({row.error_code})."
        return response | {
            "status": "failed", "error": response.get("error") or {"code": "server_error", "message": message},
        }  # fmt: skip
    if row.state == "succeeded":
        return response
    return response | {"status": "queued" if row.state == "queued" else "in_progress", "output": [], "error": None}


def not_found(name: str) -> NotFound:
    """Return the error for a response that does not exist, has expired or belongs to another account."""
    return NotFound(f"Response with id '{name[:100]}' not found.", param="response_id")


def _no_previous(name: str, gone: str | None = None) -> NotFound:
    what = "" if gone in (None, name) else f" It continues {gone}, which is not stored any more."
    return NotFound(
        f"Previous response with id '{name[:100]}' not found.{what} Responses are kept for a limited time, and not at "
        "all with store set to false. Send the whole conversation as input.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def _check_continues(row: StoredRow, name: str) -> None:
    """Raise InvalidRequest unless the response has ended well."""
    if row.state == "succeeded" and row.cancelled_ms is None:
        return
    if row.is_unfinished:
        reason = "is still in progress. Wait until its status is completed"
    else:
        word = "failed" if row.state == "failed" else "was cancelled"
        reason = f"{word}. Continue the response before it"
    raise InvalidRequest(f"previous_response_id: {name} {reason}.", param="previous_response_id")


def _check_size(size: int, param: str) -> None:
    if size > MAX_CONVERSATION_BYTES:
        raise InvalidRequest(
            f"{param}: the stored items have {size / MB:.1f} MB, and at most {MAX_CONVERSATION_BYTES // MB} MB can be "
            "read back. Start a new conversation, or send the items that still matter as input.",
            param=param,
        )


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
