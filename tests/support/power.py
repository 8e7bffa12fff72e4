"""Power cuts below SQLite: a VFS that notes every write and every sync, and what a disk may hold after a cut.

Until a file is synced, each of its writes may be lost, kept or torn between sectors, in any order. SQLite trusts
`fsync`; this disk keeps what it was told to keep and nothing else.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from minitoolai.core.errors import StoreError
from minitoolai.storage.database import ImmediateWrites, Row

SECTOR = 512
_names = itertools.count(1)


@dataclass
class Disk:
    """The folder that SQLite works in.

    `log`: (file, offset, bytes) for a write, (file, size, None) for a truncation, (file, -1, None) for a sync.
    """

    folder: Path
    log: list[tuple[str, int, bytes | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        self.vfs = _Vfs(f"power{next(_names)}", self)

    def after_a_cut(self, at: int, draw: random.Random, into: Path) -> None:
        """The files as they may be found if the power went after so many entries of the log."""
        into.mkdir()
        lasting = dict.fromkeys(self._before, -1)
        for place, (name, offset, data) in enumerate(self.log[:at]):
            if offset < 0 and data is None:
                lasting[name] = place
        images = {name: bytearray(data) for name, data in self._before.items()}
        for place, (name, offset, data) in enumerate(self.log[:at]):
            image = images.setdefault(name, bytearray())
            is_certain = place <= lasting.get(name, -1)
            if data is None:
                if offset >= 0 and (is_certain or draw.random() < 0.5):
                    del image[offset:]
            elif is_certain:
                _put(image, offset, data)
            else:
                for start in range(0, len(data), SECTOR):
                    if draw.random() < 0.5:
                        _put(image, offset + start, data[start : start + SECTOR])
        for name, image in images.items():
            (into / name).write_bytes(image)


def _put(image: bytearray, offset: int, data: bytes) -> None:
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        self.name = name
        self._disk = disk
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(name, flags, self._disk)


class _File(apsw.VFSFile):
    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], disk: Disk) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path).name if path else ""
        self._log = disk.log
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        if self._name:
            self._log.append((self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._log.append((self._name, newsize, None))

    def xSync(self, flags: int) -> None:
        # Nobody cuts the power of this machine: the real sync would only take time.
        if self._name:
            self._log.append((self._name, -1, None))


class PoweredConnection(ImmediateWrites):
    """`Connection` over the SQLite of apsw, on a disk whose power may be cut."""

    skip_locked = ""

    def __init__(self, disk: Disk, path: Path, pragmas: Sequence[str]) -> None:
        self._db = apsw.Connection(str(path), vfs=disk.vfs.name)
        for pragma in pragmas:
            self._db.execute(f"PRAGMA {pragma}").fetchall()

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        try:
            return self._db.execute(sql, tuple(parameters)).fetchall()  # type: ignore[arg-type]
        except apsw.Error as error:
            raise StoreError(f"{error} in {sql.split(maxsplit=1)[0]}") from error

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        before = self._db.total_changes()
        for row in rows:
            self.execute(sql, row)
        return self._db.total_changes() - before

    def select_by_ids(self, sql: str, ids: Iterable[int | str], *, lock: bool = False) -> list[Row]:
        listed = list(ids)
        if not listed:
            return []
        return self.execute(sql.replace("IN (…)", f"IN ({','.join('?' * len(listed))})"), listed)

    def notify(self, channel: str, payload: str) -> None:
        """Nobody listens."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._db.close()
