"""Finished images: signed links, delivery, retention, and the JSON that polls, events and webhooks share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import Gone, NotFound, ObjectMissing, Overloaded, ServiceError, SettingsError, StoreError
from minitoolai.core.inference import ImageFormat, ImageJob
from minitoolai.core.signing import UrlSigner
from minitoolai.images.inputs import JobInputs
from minitoolai.storage.database import Database
from minitoolai.storage.object_store import ObjectStore, digest_of
from minitoolai.storage.tables import retention
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

# ── links ─────────────────────────────────────────────────────────────────────────────────────────────────

PATH = "/api/texttoimage/pictures/"
_PURPOSE = "picture"
#: What the names of images end in.
SUFFIXES: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff\xe0": "image/jpeg", b"\xff\xd8\xff\xe1": "image/jpeg"}


def media_type(image: bytes) -> str:
    """Return the media type of an image of this server, by its first bytes."""
    return _MEDIA_TYPES.get(image[:4], "image/webp")


class PublicAddress:
    """The base URL at which clients reach this server.

    It comes from the settings or the listening address, never from a request header, which a caller could forge.
    """

    def __init__(self, public_url: str, host: str, port: int, catalog: Catalog | None = None) -> None:
        """Raise SettingsError if no path can be appended to `public_url`. Without one, the shop's domain applies."""
        parts = urlsplit(public_url)
        if public_url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment):
            raise SettingsError(f"MINITOOLAI_PUBLIC_URL={public_url!r} is wrong: write it like https://api.example.com")
        self._public_url = public_url.rstrip("/")
        self._catalog = catalog
        # Clients cannot connect to a wildcard address; on this machine, the loopback address reaches it.
        self._host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        self._port = port

    def listening_on(self, port: int) -> None:
        """Set the port that the system chose if the setting was 0."""
        self._port = port

    @property
    def public_url(self) -> str:
        """Return the URL of the settings or else of the catalog, without a trailing slash; "" if there is neither."""
        return self._public_url or (self._catalog.shop.public_url if self._catalog is not None else "")

    def __call__(self) -> str:
        """Return the base URL without a trailing slash."""
        if public_url := self.public_url:
            return public_url
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"


class Links:
    """Create and verify signed, expiring links to images.

    A link is a capability: it needs no API key, and it does not depend on the caller. `base_url` is called for each
    link, because the port may be known only after startup.
    """

    def __init__(self, signer: UrlSigner, clock: Clock, base_url: Callable[[], str], *, lifetime_s: int) -> None:
        self._signer = signer
        self._clock = clock
        self._base_url = base_url
        self._lifetime_s = lifetime_s

    def link(self, job_id: int, output_format: ImageFormat = "png") -> str:
        """Return a new link to the image of a job. Its lifetime starts now."""
        expires_s = self._clock.now_ms() // 1000 + self._lifetime_s
        suffix = SUFFIXES[output_format]
        signature = self._signer.sign(_PURPOSE, _signed(str(job_id), suffix, str(expires_s)))
        return f"{self._base_url()}{PATH}{job_id}.{suffix}?expires={expires_s}&signature={signature}"

    def verify(self, name: str, expires: str, signature: str) -> tuple[int, int]:
        """Return the job ID in `<job>.png` (.jpg, .webp) and the seconds until the link expires.

        Raises NotFound, always with the same message, if this server did not sign the link, and Gone if it has expired.
        """
        job, _, suffix = name.partition(".")
        is_signed = (
            suffix in SUFFIXES.values()
            and _is_number(job)
            and _is_number(expires)
            and self._signer.verify(_PURPOSE, _signed(job, suffix, expires), signature)
        )
        if not is_signed:
            raise NotFound(
                "there is no image here: the link is incomplete, or it does not belong to this server", param="url"
            )
        left_s = int(expires) - self._clock.now_ms() // 1000
        if left_s <= 0:
            raise Gone("this link has expired; poll the job again to get a new one", code="link_expired")
        return int(job), left_s


def _signed(job: str, suffix: str, expires: str) -> str:
    """Return the text that a link signs. Links to PNG files are older than those to other formats."""
    return f"{job}:{expires}" if suffix == "png" else f"{job}.{suffix}:{expires}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16


# ── delivery ──────────────────────────────────────────────────────────────────────────────────────────────


class ImageFile(msgspec.Struct, frozen=True):
    """An image that a valid link names. `digest` is the hexadecimal SHA-256 of its bytes."""

    job_id: int
    key: str
    digest: str
    left_s: int


class ImageDelivery:
    """Find and read the images that links name."""

    def __init__(self, database: Database, store: ObjectStore, links: Links) -> None:
        self.links = links
        self._database = database
        self._store = store

    async def find(self, name: str, expires: str, signature: str) -> ImageFile:
        """Return what a link names, without reading it. Raises NotFound, Gone, Overloaded."""
        job_id, left_s = self.links.verify(name, expires, signature)
        try:
            row = await self._database.read_async(retention.find_image, job_id)
        except StoreError as error:
            raise Overloaded("the database does not respond; try again", retry_after_s=5) from error
        if row is None or row[0] != "succeeded":
            raise NotFound("there is no image of this job", param="url")
        if row[1] is None:
            raise image_removed()
        return ImageFile(job_id, row[1], digest_of(row[1]), left_s)

    async def read_job(self, job: ImageJob) -> bytes:
        """Return the PNG of a job that has just succeeded."""
        if job.object is None:
            raise image_removed()
        return await self.read(ImageFile(job.job_id, job.object, digest_of(job.object), 0))

    async def read(self, file: ImageFile) -> bytes:
        """Return the PNG. Raises Gone if retention has removed it meanwhile, and Overloaded if the store is down."""
        try:
            return await self._store.get(file.key)
        except ObjectMissing as error:
            row = await self._database.read_async(retention.find_image, file.job_id)
            if row is not None and row[1] is None:
                raise image_removed() from error
            log.error("object %s is missing from the store, although job %d refers to it", file.key, file.job_id)
            raise ServiceError("the image is missing from our storage; the operator has been notified") from error
        except StoreError as error:
            log.error("reading the image of job %d failed: %s", file.job_id, error)
            raise Overloaded("the image storage does not respond; try again", retry_after_s=5) from error


def image_removed() -> Gone:
    """Return the error for an image that retention has removed."""
    return Gone("the image was removed because its retention period is over", code="picture_removed")


# ── retention ─────────────────────────────────────────────────────────────────────────────────────────────

#: Rows per transaction.
BATCH = 200
SWEEP_EVERY_S = 60.0
#: Delete orphaned objects this often, and only if they are at least this old.
ORPHANS_EVERY_S = 6 * 3600.0
ORPHAN_AGE_MS = 3_600_000


class ImageSweeper:
    """Remove images after their retention period, and orphaned objects that no job refers to."""

    def __init__(
        self, database: Database, writer: Writer, store: ObjectStore, clock: Clock, *, retention_days: float
    ) -> None:
        """`retention_days` 0 keeps images forever. Uploads and orphaned objects are removed in any case."""
        self._inputs = JobInputs(database, writer, store, clock)
        self._database = database
        self._writer = writer
        self._store = store
        self._clock = clock
        self._retention_days = retention_days

    async def run(self) -> None:
        """Sweep until cancelled. Errors are logged and the next sweep retries."""
        next_orphans_s = 0.0
        while True:
            try:
                await self._inputs.sweep()
                await self.sweep()
                if self._clock.steady_s() >= next_orphans_s:
                    next_orphans_s = self._clock.steady_s() + ORPHANS_EVERY_S
                    await self.sweep_orphans()
            except (StoreError, ServiceError) as error:
                log.warning("image retention sweep failed, will retry: %s", error)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def sweep(self) -> int:
        """Remove images after their retention period and return their number.

        The row changes before the object is deleted. A failure in between leaves an orphaned object, never a dead link.
        """
        if not self._retention_days:
            return 0
        before_ms = self._clock.now_ms() - int(self._retention_days * MS_PER_DAY)
        count = 0
        while True:
            keys: list[str] = await self._writer.run(lambda c: retention.expire_images(c, before_ms, BATCH))
            # The rows are committed: from here on no caller receives a link to these objects.
            for key in keys:
                await self._store.delete(key)
            count += len(keys)
            if len(keys) < BATCH:
                return count

    async def sweep_orphans(self) -> int:
        """Delete old objects that their job does not refer to, left by failed attempts or interrupted sweeps."""
        count = 0
        batch: list[str] = []
        async for key in self._store.list_older(self._clock.now_ms() - ORPHAN_AGE_MS):
            batch.append(key)
            if len(batch) == BATCH:
                count += await self._delete_orphans(batch)
                batch = []
        return count + await self._delete_orphans(batch)

    async def _delete_orphans(self, keys: list[str]) -> int:
        orphans = await self._database.upkeep(retention.orphaned_objects, keys)
        for key in orphans:
            await self._store.delete(key)
        return len(orphans)


# ── JSON of a job ─────────────────────────────────────────────────────────────────────────────────────────

JobStatus = Literal["queued", "processing", "success", "error"]


class JobView(msgspec.Struct, frozen=True):
    """A job as polls, events and webhooks show it. `image_url` is set on `success` only."""

    status: JobStatus
    image_url: str | None
    message: str
    seed: int
    progress: float
    #: A stand-in's own name, else the requested one.
    model: str
    generation: str
    code: str | None = None
    #: A stand-in generates the image.
    demo: bool | None = None


def job_view(job: ImageJob, links: Links) -> JobView:
    """Return the current state of a job, with a new link if it has succeeded."""
    status, message, code = _status(job)
    return JobView(
        status=status,
        image_url=links.link(job.job_id, job.output_format) if status == "success" else None,
        message=message,
        seed=job.seed,
        progress=round(job.progress, 4),
        model=job.shown_model or job.model,
        generation=job.generation,
        code=code,
        demo=job.is_demo or None,
    )


def job_json(job: ImageJob, links: Links) -> dict[str, Any]:
    """Return the same as a JSON object, without `code` and `demo` if there is none."""
    fields: dict[str, Any] = msgspec.to_builtins(job_view(job, links))
    return {name: value for name, value in fields.items() if value is not None or name not in ("code", "demo")}


def _status(job: ImageJob) -> tuple[JobStatus, str, str | None]:
    """Return status, message and code."""
    if job.state == "queued":
        if job.ahead:
            return "queued", f"in the queue, {job.ahead} {'job' if job.ahead == 1 else 'jobs'} ahead", None
        return "queued", "in the queue, next to be generated", None
    if job.state == "running":
        return "processing", f"step {job.step} of {job.steps}", None
    if job.state == "succeeded":
        if job.object is None:
            return "error", image_removed().message, "picture_removed"
        return "success", "success", None
    if job.state == "cancelled":
        return "error", "the job was cancelled; nothing was charged", job.error_code or "cancelled"
    reason = job.error or "the image could not be generated"
    return "error", f"{reason}; nothing was charged", job.error_code or "upstream_error"
