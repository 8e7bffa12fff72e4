"""Store requests and responses for accounts that have asked for it: encrypted, for some days, off the request path.

Each account has a random key, which is stored encrypted under a key derived from the server's secret. Deleting it
makes all bodies of the account unreadable, also in backups made later.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from minitoolai.accounts.ciphers import AccountCipher, decrypt, encrypt
from minitoolai.core.clock import MS_PER_DAY, Clock, random_bytes
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.core.signing import SecretKeys
from minitoolai.core.threads import BODIES
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import request_bodies
from minitoolai.storage.tables.request_bodies import BodyRow, BodySettings
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)
#: Bytes of a request or a response that are stored.
MAX_BODY_BYTES = 64 * 1024
MAX_DAYS = 30
#: Bytes that wait to be encrypted and written. More are not stored: requests never wait for this.
MAX_WAITING_BYTES = 64 * 1024 * 1024
#: Bodies of one transaction, and the pause after a failed one.
BATCH, RETRY_S, TRIES = 64, 1.0, 30


class Body(msgspec.Struct, frozen=True):
    """A body as text, and how many bytes it had before it was cut."""

    text: str
    size: int

    @property
    def is_cut(self) -> bool:
        return self.size > len(self.text.encode())


class Exchange(msgspec.Struct, frozen=True):
    """A request and its response. `prepare` turns them into text, in a thread. `held_bytes`: the size until then."""

    account_id: int
    generation_id: int
    days: int
    held_bytes: int
    prepare: Callable[[], tuple[Body | None, Body | None]]


class StoredBodies(msgspec.Struct, frozen=True):
    """The stored bodies of a generation, and until when. A body is None if there is none, or its key is gone."""

    request: Body | None
    response: Body | None
    expires_ms: int


def cut(text: str, size: int | None = None) -> Body:
    """Return a body with at most MAX_BODY_BYTES, cut between two characters. PostgreSQL accepts no NUL elsewhere."""
    encoded = text.encode("utf-8", "replace")
    size = len(encoded) if size is None else size
    if len(encoded) <= MAX_BODY_BYTES:
        return Body(encoded.decode(), size)
    return Body(encoded[:MAX_BODY_BYTES].decode("utf-8", "ignore"), max(size, len(encoded)))


class BodyVault:
    """Encrypt and decrypt bodies with the keys of their accounts, and wrap these keys."""

    def __init__(self, secret_keys: SecretKeys) -> None:
        self._wrapping = AccountCipher(secret_keys, b"request bodies")

    def new_key(self, account_id: int) -> bytes:
        """Return a new key for an account, encrypted."""
        return self.wrap(account_id, random_bytes(32))

    def wrap(self, account_id: int, key: bytes) -> bytes:
        return self._wrapping.encrypt(account_id, key)

    def unwrap(self, account_id: int, wrapped: bytes) -> bytes | None:
        """Return the key, or None if it was encrypted under a secret that is lost."""
        return self._wrapping.decrypt(account_id, wrapped)

    def seal(self, key: bytes, generation_id: int, part: str, body: Body) -> bytes:
        """Compress and encrypt a body. It is bound to its generation and its part."""
        return encrypt(key, _context(generation_id, part), zlib.compress(body.text.encode(), 1))

    def open(self, key: bytes, generation_id: int, part: str, sealed: bytes) -> str | None:
        """Return the text of a body, or None if it was encrypted under another key."""
        packed = decrypt(key, _context(generation_id, part), sealed)
        return None if packed is None else zlib.decompress(packed).decode()

    def wrap_anew(self, connection: Connection) -> int:
        """Encrypt the keys of all accounts under the newest secret, and return how many could be decrypted."""
        replace = partial(request_bodies.replace_key, connection)
        return self._wrapping.encrypt_anew(request_bodies.all_keys(connection), replace)


def _context(generation_id: int, part: str) -> bytes:
    return f"{part} of generation {generation_id}".encode()


def wrap_anew(connection: Connection, secret_keys: SecretKeys) -> int:
    """Encrypt the keys of all accounts under the newest secret, and return how many could be decrypted."""
    return BodyVault(secret_keys).wrap_anew(connection)


class BodyKeeper:
    """Write the bodies of finished requests in the background, and read them for their account."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        secret_keys: SecretKeys,
        *,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        retry_s: float = RETRY_S,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._max_waiting_bytes = max_waiting_bytes
        self._retry_s = retry_s
        self._vault = BodyVault(secret_keys)
        self._waiting: deque[Exchange] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        #: Bodies that were stored, and those for which there was no room or that could not be written.
        self.stored = 0
        self.dropped = 0

    # ── settings ──────────────────────────────────────────────────────────────────────────────────────────

    async def settings(self, account_id: int) -> BodySettings | None:
        """Return the settings of an account."""
        return await self._database.read_async(request_bodies.find_settings, account_id)

    def turn_on(self, connection: Connection, account_id: int, days: int) -> None:
        """Store the bodies of this account from now on, inside the caller's transaction. A key that it has stays."""
        assert 0 < days <= MAX_DAYS, "checked by the page"
        present = request_bodies.find_settings(connection, account_id)
        key = present.wrapped_key if present and present.wrapped_key else self._vault.new_key(account_id)
        request_bodies.save_settings(connection, BodySettings(account_id, days, key, self._clock.now_ms()))

    def turn_off(self, connection: Connection, account_id: int) -> None:
        """Store none from now on, and delete the key of those stored before. The sweeper deletes the rows."""
        request_bodies.save_settings(connection, BodySettings(account_id, 0, None, self._clock.now_ms()))

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, account_id: int, generation_id: int) -> StoredBodies | None:
        """Return the stored bodies of a generation, or None."""
        now_ms = self._clock.now_ms()
        row = await self._database.read_async(request_bodies.find, generation_id, account_id, now_ms)
        settings = await self.settings(account_id) if row else None
        if row is None or settings is None or settings.wrapped_key is None:
            return None
        return await BODIES.run(self._open, row, settings.wrapped_key)

    def _open(self, row: BodyRow, wrapped_key: bytes) -> StoredBodies | None:
        key = self._vault.unwrap(row.account_id, wrapped_key)
        if key is None:
            log.error("the bodies of account %d were encrypted under a secret that is lost", row.account_id)
            return None
        texts = [
            None if sealed is None else self._vault.open(key, row.id, part, sealed)
            for part, sealed in (("request", row.request), ("response", row.response))
        ]
        if texts == [None, None]:
            return None
        request, response = (
            None if text is None else Body(text, size)
            for text, size in zip(texts, (row.request_bytes, row.response_bytes), strict=True)
        )
        return StoredBodies(request, response, row.expires_ms)

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────

    def keep(self, exchange: Exchange) -> None:
        """Queue a request that has ended. Never waits; drops it if too much is waiting."""
        if self._waiting_bytes + exchange.held_bytes > self._max_waiting_bytes:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:
                log.warning("bodies of %d requests were not stored, because too many are waiting", self.dropped)
            return
        self._waiting.append(exchange)
        self._waiting_bytes += exchange.held_bytes
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write everything that waits."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._waiting_bytes -= sum(one.held_bytes for one in batch)
            await self._write(batch)

    async def _write(self, batch: list[Exchange]) -> None:
        for attempt in range(TRIES):
            try:
                accounts = {one.account_id for one in batch}
                keys = await self._database.read_async(request_bodies.wrapped_keys, accounts)
                rows = await BODIES.run(self._seal, batch, keys, self._clock.now_ms())

                def change(connection: Connection, rows: list[BodyRow] = rows, keys: dict[int, bytes] = keys) -> int:
                    # A key that was deleted meanwhile must not leave rows behind.
                    present = request_bodies.wrapped_keys(connection, keys)
                    return request_bodies.insert(connection, [r for r in rows if present.get(r.account_id)])

                self.stored += await self._writer.run(change)
                return
            except (StoreError, Overloaded) as error:
                log.warning("storing the bodies of %d requests failed, will retry: %s", len(batch), error)
                await asyncio.sleep(self._retry_s * min(attempt + 1, 10))
        self.dropped += len(batch)
        log.error("the bodies of %d requests were given up", len(batch))

    def _seal(self, batch: list[Exchange], wrapped: dict[int, bytes], now_ms: int) -> list[BodyRow]:
        keys = {account_id: self._vault.unwrap(account_id, key) for account_id, key in wrapped.items()}
        rows = []
        for one in batch:
            key = keys.get(one.account_id)
            if key is None:
                continue
            request, response = one.prepare()
            sealed = [
                None if body is None else self._vault.seal(key, one.generation_id, part, body)
                for part, body in (("request", request), ("response", response))
            ]
            rows.append(
                BodyRow(
                    one.generation_id, one.account_id, sealed[0], sealed[1], request.size if request else 0,
                    response.size if response else 0, now_ms + one.days * MS_PER_DAY,
                )
            )  # fmt: skip
        return rows
