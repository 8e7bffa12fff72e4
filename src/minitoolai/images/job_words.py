"""A job in the words of the contract: what a poll says, an event says, and a webhook says, is said here once."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from minitoolai.core.pictures import ImageJob
from minitoolai.images.links import Links

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
