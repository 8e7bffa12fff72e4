"""Format of an archived day: parts of compressed JSON lines, and a manifest with their sums and digests.

A part holds generations sorted by account and time, each in one line with its hold and its usage transfer. So the rows
of one account are in few parts, and a statement reads only those. The first line names the columns, so a later version
with more columns reads it too. Names contain the SHA-256 of the content: a file never changes, and writing it again is
harmless.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from minitoolai.core.clock import date_of
from minitoolai.core.errors import StoreError

FORMAT = 1
FOLDER = "archive"
#: The tables with a row in each line, in this order.
TABLES = ("generations", "holds", "transfers")
#: A usage transfer; None if the hold was voided.
Values = Sequence[Any]
#: The rows of a generation, its hold and its transfer.
Line = tuple[Values, Values, Values | None]
Record = dict[str, Any]


class Sums(msgspec.Struct, frozen=True):
    """Sums of some lines. `cost`, `amount` (transferred) and `shortfall` are nano-dollars."""

    requests: int = 0
    paid: int = 0
    cost: int = 0
    amount: int = 0
    shortfall: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(one + two for one, two in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, int, int, int, int]:
        """Return the sums in the order of their columns."""
        return self.requests, self.paid, self.cost, self.amount, self.shortfall


class PartEntry(msgspec.Struct, frozen=True):
    """A part as the manifest names it."""

    part: int
    sha256: str
    bytes: int
    requests: int


class Manifest(msgspec.Struct, frozen=True):
    """All that belongs to one day. `previous`: the SHA-256 of the manifest before it, or "" for the first."""

    format: int
    day: str
    previous: str
    sums: Sums
    parts: list[PartEntry]


class _Header(msgspec.Struct, frozen=True):
    format: int
    day: str
    part: int
    columns: dict[str, list[str]]


class ArchivedRow(msgspec.Struct, frozen=True):
    """A line, decoded: each row by column."""

    generation: Record
    hold: Record
    transfer: Record | None

    @property
    def place(self) -> tuple[int, int]:
        """Return the time and ID by which lists are ordered."""
        return self.generation["created_ms"], self.generation["id"]


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def part_path(day: int, part: int, digest: str) -> str:
    """Return the path of a part in the object store."""
    return f"{FOLDER}/{date_of(day)}/{part:06}-{digest}.jsonl.gz"


def manifest_path(day: int, digest: str) -> str:
    """Return the path of the manifest of a day."""
    return f"{FOLDER}/{date_of(day)}/manifest-{digest}.json"


def encode_line(line: Line) -> bytes:
    """Return the JSON of a line."""
    return msgspec.json.encode(line)


def line_digest(encoded: bytes) -> bytes:
    """Return eight bytes that tell whether a row is still as it was archived."""
    return hashlib.blake2b(encoded, digest_size=8).digest()


def encode_part(day: int, part: int, columns: dict[str, list[str]], lines: Sequence[bytes]) -> bytes:
    """Return the compressed file. The same lines always give the same bytes."""
    header = msgspec.json.encode(_Header(FORMAT, date_of(day), part, columns))
    return gzip.compress(b"\n".join((header, *lines, b"")), mtime=0)


def encode_manifest(day: int, previous: str, sums: Sums, parts: list[PartEntry]) -> bytes:
    """Return the manifest of a day as JSON."""
    encoded = msgspec.json.encode(Manifest(FORMAT, date_of(day), previous, sums, parts))
    return msgspec.json.format(encoded, indent=1)


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest. Raise StoreError if it is not one."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise StoreError(f"the manifest of an archived day is damaged: {error}") from error
    if manifest.format != FORMAT:
        raise StoreError(f"an archived day has format {manifest.format}, but this version reads format {FORMAT}")
    return manifest


class Part:
    """A part that was read: its lines as JSON, decoded only where they are wanted."""

    def __init__(self, path: str, data: bytes, digest: str) -> None:
        """Raise StoreError if the file was changed since it was written."""
        if sha256(data) != digest:
            raise StoreError(f"the archived file {path} was changed or damaged: its SHA-256 differs; restore it")
        try:
            header, *self.lines = gzip.decompress(data).splitlines()
            found = msgspec.json.decode(header, type=_Header)
        except (OSError, EOFError, zlib.error, msgspec.MsgspecError) as error:
            raise StoreError(f"the archived file {path} cannot be read: {error}") from error
        self.day = found.day
        self._columns = [found.columns[table] for table in TABLES]
        self._id = found.columns["generations"].index("id")
        self._account = found.columns["generations"].index("account_id")

    def ids(self) -> Iterator[tuple[int, bytes]]:
        """Yield the ID of each generation, with the digest of its line."""
        for line in self.lines:
            yield msgspec.json.decode(line)[0][self._id], line_digest(line)

    def rows(self, account_id: int | None = None) -> list[ArchivedRow]:
        """Return the rows of an account, or all, oldest first."""
        decoded = (msgspec.json.decode(line) for line in self.lines)
        generations, holds, transfers = self._columns
        return [
            ArchivedRow(
                dict(zip(generations, line[0], strict=True)),
                dict(zip(holds, line[1], strict=True)),
                None if line[2] is None else dict(zip(transfers, line[2], strict=True)),
            )
            for line in decoded
            if account_id is None or line[0][self._account] == account_id
        ]


def sums_of(rows: Iterable[ArchivedRow]) -> Sums:
    """Return the sums of some rows."""
    sums = [0, 0, 0, 0, 0]
    for row in rows:
        paid = row.transfer is not None
        amount = row.transfer["amount"] if row.transfer is not None else 0
        for place, value in enumerate((1, int(paid), row.generation["cost"], amount, row.hold["shortfall"])):
            sums[place] += value
    return Sums(*sums)
