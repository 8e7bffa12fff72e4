"""Uploaded images of edits: kept in the object store while their job needs them, then deleted."""

from __future__ import annotations

import logging
from functools import partial

import msgspec

from minitoolai.core.clock import Clock
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.core.inference import EditInputs, ImageJobRequest
from minitoolai.storage.database import Database
from minitoolai.storage.object_store import ObjectStore, object_key
from minitoolai.storage.tables import job_inputs
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: Delete uploads without a job after this time: the process was killed before it submitted the job.
UNSUBMITTED_MS = 3_600_000
#: Rows per transaction.
BATCH = 200


class JobInputs:
    """Keep the uploads of jobs in the object store, and delete them with their job."""

    def __init__(self, database: Database, writer: Writer, objects: ObjectStore, clock: Clock) -> None:
        self._database = database
        self._writer = writer
        self._objects = objects
        self._clock = clock

    async def put(self, job_id: int, request: ImageJobRequest, inputs: EditInputs) -> ImageJobRequest:
        """Store the uploads of a job that is about to be submitted. Return its request, which names them."""
        files = [*inputs.images, *([inputs.mask] if inputs.mask is not None else [])]
        keys = [object_key(job_id, file) for file in files]
        now_ms = self._clock.now_ms()
        await self._writer.run(partial(job_inputs.add, job_id=job_id, keys=keys, now_ms=now_ms))
        for file in files:
            await self._objects.put(job_id, file)
        count = len(inputs.images)
        return msgspec.structs.replace(request, images=tuple(keys[:count]), mask="".join(keys[count:]))

    async def get(self, request: ImageJobRequest) -> EditInputs:
        """Return the uploads of a job. Raises StoreError, and ObjectMissing if the job has ended meanwhile."""
        images = [await self._objects.get(key) for key in request.images]
        return EditInputs(tuple(images), await self._objects.get(request.mask) if request.mask else None)

    async def delete(self, job_id: int) -> None:
        """Delete the uploads of a job that has ended. What fails now is deleted by the next sweep."""
        try:
            await self._delete(await self._database.read_async(job_inputs.keys_of, job_id))
        except (StoreError, ServiceError) as error:
            log.warning("job %d: deleting its uploads failed, will retry: %s", job_id, error)

    async def sweep(self) -> int:
        """Delete uploads of jobs that have ended or were never submitted. Return their number."""
        count = 0
        while True:
            before_ms = self._clock.now_ms() - UNSUBMITTED_MS
            keys = await self._database.upkeep(job_inputs.unneeded, before_ms, BATCH)
            await self._delete(keys)
            count += len(keys)
            if len(keys) < BATCH:
                return count

    async def _delete(self, keys: list[str]) -> None:
        for key in keys:
            await self._objects.delete(key)
        if keys:
            await self._writer.run(partial(job_inputs.remove, keys=keys))
