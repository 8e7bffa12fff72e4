"""Finished pictures: opened by their link, and removed when retention says so, the row before the object."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import Gone, NotFound, ObjectMissing, Overloaded, ServiceError, SettingsError, StoreError
from minitoolai.core.inference import ImageJob
from minitoolai.core.signing import UrlSigner
from minitoolai.storage import retention
from minitoolai.storage.database import Database
from minitoolai.storage.object_store import ObjectStore, digest_of
from minitoolai.storage.writer import Writer

# (merged from links) Links to pictures: signed, expiring, and the same whoever asks. A link is a capability; it carries no key.

PATH = "/api/texttoimage/pictures/"
_PURPOSE = "picture"


class PublicAddress:
    """How clients reach this server: as the operator says, else where it listens. Never what a request claims."""

    def __init__(self, public_url: str, host: str, port: int) -> None:
        """SettingsError where `public_url` is no address to put a path behind."""
        parts = urlsplit(public_url)
        if public_url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment):
            raise SettingsError(f"MINITOOLAI_PUBLIC_URL={public_url!r} is wrong: write it like https://api.example.com")
        self._public_url = public_url.rstrip("/")
        # Listening everywhere is no place to call; on this machine, loopback is.
        self._host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        self._port = port

    def listening_on(self, port: int) -> None:
        """The port is known now, should it have been 0."""
        self._port = port

    def __call__(self) -> str:
        """The address, without a slash at its end."""
        if self._public_url:
            return self._public_url
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"


class Links:
    """Makes links and reads them back. `base_url` is asked each time: a port may be known only after the start."""

    def __init__(self, signer: UrlSigner, clock: Clock, base_url: Callable[[], str], *, lifetime_s: int) -> None:
        self._signer = signer
        self._clock = clock
        self._base_url = base_url
        self._lifetime_s = lifetime_s

    def link(self, job_id: int) -> str:
        """The address of a job's picture, good from now for the lifetime of links."""
        expires_s = self._clock.now_ms() // 1000 + self._lifetime_s
        signature = self._signer.sign(_PURPOSE, f"{job_id}:{expires_s}")
        return f"{self._base_url()}{PATH}{job_id}.png?expires={expires_s}&signature={signature}"

    def check(self, name: str, expires: str, signature: str) -> tuple[int, int]:
        """The job behind `<job>.png`, and the seconds for which the link is still good.

        NotFound, in the same words, for whatever this server has not signed; Gone for what it has, too long ago.
        """
        job = name.removesuffix(".png")
        is_ours = (
            name.endswith(".png")
            and _is_number(job)
            and _is_number(expires)
            and self._signer.verify(_PURPOSE, f"{job}:{expires}", signature)
        )
        if not is_ours:
            raise NotFound("there is no picture here: the link is not whole, or not one of this server's", param="url")
        left_s = int(expires) - self._clock.now_ms() // 1000
        if left_s <= 0:
            raise Gone(
                "this link has expired; ask for the job again, and its answer has a new one", code="link_expired"
            )
        return int(job), left_s


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16


log = logging.getLogger(__name__)

#: Rows whose promise is taken back in one transaction.
BATCH = 200
SWEEP_EVERY_S = 60.0
#: Objects that nobody promises any more are looked for this often, and only among those this old.
STRAYS_EVERY_S = 6 * 3600.0
STRAYS_AGE_MS = 3_600_000


class ImageFile(msgspec.Struct, frozen=True):
    """A picture that a good link leads to. `digest` is the SHA-256 of its bytes, in hexadecimal."""

    job_id: int
    key: str
    digest: str
    left_s: int


class ImageDelivery:
    """Opens links."""

    def __init__(self, database: Database, store: ObjectStore, links: Links) -> None:
        self._database = database
        self._store = store
        self._links = links

    async def find(self, name: str, expires: str, signature: str) -> ImageFile:
        """What a link leads to, without reading it. NotFound, Gone; Overloaded where the database cannot tell."""
        job_id, left_s = self._links.check(name, expires, signature)
        try:
            row = await self._database.read_async(retention.find_image, job_id)
        except StoreError as error:
            raise Overloaded("the database does not answer; try again", retry_after_s=5) from error
        if row is None or row[0] != "succeeded":
            raise NotFound("there is no picture of this job", param="url")
        if row[1] is None:
            raise removed()
        return ImageFile(job_id, row[1], digest_of(row[1]), left_s)

    async def of_job(self, job: ImageJob) -> bytes:
        """The PNG of a job that has just succeeded."""
        if job.object is None:
            raise removed()
        return await self.read(ImageFile(job.job_id, job.object, digest_of(job.object), 0))

    async def read(self, found: ImageFile) -> bytes:
        """The PNG. Gone where retention was faster; Overloaded where the store cannot tell."""
        try:
            return await self._store.get(found.key)
        except ObjectMissing as error:
            row = await self._database.read_async(retention.find_image, found.job_id)
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


class ImageSweeper:
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
            keys: list[str] = await self._writer.run(lambda c: retention.expire_images(c, before_ms, BATCH))
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
        strays = await self._database.read_async(retention.orphaned_objects, keys)
        for key in strays:
            await self._store.delete(key)
        return len(strays)


# (merged from job_words) A job in the words of the contract: what a poll says, an event says, and a webhook says, is said here once.

JobStatus = Literal["queued", "processing", "success", "error"]


class JobView(msgspec.Struct, frozen=True):
    """What whoever holds the signature may see. `image_url` only beside `success`."""

    status: JobStatus
    image_url: str | None
    message: str
    seed: int
    progress: float
    #: What really drew it, once somebody has; before, the name that was asked for.
    model: str
    generation: str
    code: str | None = None


def view(job: ImageJob, links: Links) -> JobView:
    """The job as it stands; a link is fresh each time."""
    status, message, code = _said(job)
    return JobView(
        status=status,
        image_url=links.link(job.job_id) if status == "success" else None,
        message=message,
        seed=job.seed,
        progress=round(job.progress, 4),
        model=job.served_model or job.model,
        generation=job.generation,
        code=code,
    )


def body(job: ImageJob, links: Links) -> dict[str, Any]:
    """The same as a JSON object; `code` only where there is something to say."""
    fields: dict[str, Any] = msgspec.to_builtins(view(job, links))
    if fields["code"] is None:
        del fields["code"]
    return fields


def _said(job: ImageJob) -> tuple[JobStatus, str, str | None]:
    """Status, message, code."""
    if job.state == "queued":
        if job.ahead:
            return "queued", f"in the queue, {job.ahead} {'job' if job.ahead == 1 else 'jobs'} ahead", None
        return "queued", "in the queue, next to be drawn", None
    if job.state == "running":
        return "processing", f"step {job.step} of {job.steps}", None
    if job.state == "succeeded":
        if job.object is None:
            return "error", "the picture was drawn, and removed when its time in our store was over", "picture_removed"
        return "success", "success", None
    if job.state == "cancelled":
        return "error", "the job was cancelled; nothing was charged", job.error_code or "cancelled"
    why = job.error or "the picture could not be drawn"
    return "error", f"{why}; nothing was charged", job.error_code or "upstream_error"
