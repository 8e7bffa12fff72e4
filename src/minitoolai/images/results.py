"""Finished pictures: opened by their link, and removed when retention says so, the row before the object."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import Gone, NotFound, ObjectMissing, Overloaded, ServiceError, StoreError
from minitoolai.core.pictures import ImageJob
from minitoolai.images.links import Links
from minitoolai.storage import retention
from minitoolai.storage.database import Database
from minitoolai.storage.object_store import ObjectStore, digest_of
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: Rows whose promise is taken back in one transaction.
BATCH = 200
SWEEP_EVERY_S = 60.0
#: Objects that nobody promises any more are looked for this often, and only among those this old.
STRAYS_EVERY_S = 6 * 3600.0
STRAYS_AGE_MS = 3_600_000


class Found(msgspec.Struct, frozen=True):
    """A picture that a good link leads to. `digest` is the SHA-256 of its bytes, in hexadecimal."""

    job_id: int
    key: str
    digest: str
    left_s: int


class Pictures:
    """Opens links."""

    def __init__(self, database: Database, store: ObjectStore, links: Links) -> None:
        self._database = database
        self._store = store
        self._links = links

    async def find(self, name: str, expires: str, signature: str) -> Found:
        """What a link leads to, without reading it. NotFound, Gone; Overloaded where the database cannot tell."""
        job_id, left_s = self._links.check(name, expires, signature)
        try:
            row = await self._database.read_soon(retention.picture_of, job_id)
        except StoreError as error:
            raise Overloaded("the database does not answer; try again", retry_after_s=5) from error
        if row is None or row[0] != "succeeded":
            raise NotFound("there is no picture of this job", param="url")
        if row[1] is None:
            raise removed()
        return Found(job_id, row[1], digest_of(row[1]), left_s)

    async def of_job(self, job: ImageJob) -> bytes:
        """The PNG of a job that has just succeeded."""
        if job.object is None:
            raise removed()
        return await self.read(Found(job.job_id, job.object, digest_of(job.object), 0))

    async def read(self, found: Found) -> bytes:
        """The PNG. Gone where retention was faster; Overloaded where the store cannot tell."""
        try:
            return await self._store.get(found.key)
        except ObjectMissing as error:
            row = await self._database.read_soon(retention.picture_of, found.job_id)
            if row is not None and row[1] is None:
                raise removed() from error
            log.error("the object %s is promised and not there", found.key)
            raise ServiceError("the picture is missing in our store; it was reported to the operator") from error
        except StoreError as error:
            log.error("the picture of job %d cannot be read: %s", found.job_id, error)
            raise Overloaded("the store of pictures does not answer; try again", retry_after_s=5) from error


def removed() -> Gone:
    """The picture was there, and its time was over."""
    return Gone("the picture was removed: its time in our store is over", code="picture_removed")


class Sweeper:
    """Removes pictures whose time is over, and objects that nobody promises."""

    def __init__(
        self, database: Database, writer: Writer, store: ObjectStore, clock: Clock, *, retention_days: float
    ) -> None:
        """`retention_days` 0 keeps pictures for ever; strays go all the same."""
        self._database = database
        self._writer = writer
        self._store = store
        self._clock = clock
        self._retention_days = retention_days

    async def run(self) -> None:
        """Until cancelled. What goes wrong is logged, and tried again at the next turn."""
        next_strays_s = 0.0
        while True:
            try:
                await self.sweep()
                if self._clock.steady_s() >= next_strays_s:
                    next_strays_s = self._clock.steady_s() + STRAYS_EVERY_S
                    await self.sweep_strays()
            except (StoreError, ServiceError) as error:
                log.warning("pictures could not be swept: %s", error)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> int:
        """Take back promises whose time is over, then delete; how many. A failure leaves a stray, never a dead link."""
        if not self._retention_days:
            return 0
        before_ms = self._clock.now_ms() - int(self._retention_days * MS_PER_DAY)
        count = 0
        while True:
            keys: list[str] = await self._writer.run(lambda c: retention.expire_pictures(c, before_ms, BATCH))
            # The rows say so, durably: from here on nobody gets a link to these.
            for key in keys:
                await self._store.delete(key)
            count += len(keys)
            if len(keys) < BATCH:
                return count

    async def sweep_strays(self) -> int:
        """Delete old objects that their own job does not claim: of failed attempts, of sweeps that broke off."""
        count = 0
        batch: list[str] = []
        async for key in self._store.list_older(self._clock.now_ms() - STRAYS_AGE_MS):
            batch.append(key)
            if len(batch) == BATCH:
                count += await self._delete_strays(batch)
                batch = []
        return count + await self._delete_strays(batch)

    async def _delete_strays(self, keys: list[str]) -> int:
        strays = await self._database.read_soon(retention.unpromised, keys)
        for key in strays:
            await self._store.delete(key)
        return len(strays)
