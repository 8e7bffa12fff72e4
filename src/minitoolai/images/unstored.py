"""Images that are drawn while the object store is away: kept on disk, so that none has to be drawn twice.

While an image waits for the store, this process claims no more jobs: they would only wait, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from minitoolai.core.clock import wall_s
from minitoolai.core.private_files import make_private_folder, private_opener
from minitoolai.core.threads import FILES

log = logging.getLogger(__name__)

#: Delete an image after this time: its job was finished by another worker, or cancelled.
KEEP_S = 2 * 86_400.0
#: Keep at most this many bytes. Further images wait in memory.
MAX_BYTES = 1 << 30
_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class UnstoredImage(NamedTuple):
    """An image with the model that drew it."""

    model: str
    data: bytes


class UnstoredImages:
    """Folder of the images that the object store has not taken yet, by job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, job_id: int, model: str, data: bytes) -> bool:
        """Write the image to disk, and return False if that is not possible: it is only a precaution."""
        try:
            await FILES.run(self._write, job_id, model, data)
        except OSError as error:
            log.warning("job %d: the image waits in memory for the object store, not on disk: %s", job_id, error)
            return False
        return True

    async def find(self, job_id: int) -> UnstoredImage | None:
        """Return the image of an earlier attempt, or None."""
        try:
            model, data = _unpack(await FILES.run(self._path(job_id).read_bytes))
        except (OSError, msgspec.MsgspecError):
            # A file that a crash cut short is as good as none.
            return None
        return UnstoredImage(model, data)

    async def forget(self, job_id: int) -> None:
        """Delete the image, which is stored now."""
        with suppress(OSError):
            await FILES.run(self._path(job_id).unlink, missing_ok=True)

    def _path(self, job_id: int) -> Path:
        return self._folder / f"{job_id}.image"

    def _write(self, job_id: int, model: str, data: bytes) -> None:
        make_private_folder(self._folder)
        used = 0
        for path in self._folder.glob("*.image*"):
            status = path.stat()
            if status.st_mtime < wall_s() - KEEP_S:
                path.unlink(missing_ok=True)
            else:
                used += status.st_size
        if used + len(data) > MAX_BYTES:
            raise OSError(f"{MAX_BYTES} bytes are already waiting")
        path = self._path(job_id)
        temporary = path.with_suffix(".image.new")
        with open(temporary, "wb", opener=private_opener) as file:
            file.write(_pack((model, data)))
        temporary.replace(path)


@dataclass
class StoreOutage:
    """The jobs of this process with an image that the object store did not take at the last try."""

    waiting: set[int] = field(default_factory=set)

    @property
    def is_on(self) -> bool:
        """Return True while the store is away."""
        return bool(self.waiting)

    @contextmanager
    def watched(self, job_id: int) -> Iterator[OutageWatch]:
        """Count the job as waiting from its first failure to the end of the block."""
        try:
            yield OutageWatch(self.waiting, job_id)
        finally:
            self.waiting.discard(job_id)


class OutageWatch(NamedTuple):
    """Reports the failures of one job."""

    waiting: set[int]
    job_id: int

    def failed(self) -> None:
        """Record that the store did not take the image."""
        if not self.waiting:
            log.warning("the object store is away; images wait on disk, and no more jobs are claimed")
        self.waiting.add(self.job_id)
