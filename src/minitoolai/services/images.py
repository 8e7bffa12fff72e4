"""Pictures from request to end: submitted, looked at, watched, waited for, cancelled. Knows no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from minitoolai.core.pictures import ImageAsk, ImageJob, Submitted
from minitoolai.core.records import Caller


class ImageService(Protocol):
    """Everything that serves image jobs in this process, except the drawing itself.

    NotFound, in the same words, for a wrong signature and an unknown job.
    """

    async def submit(self, caller: Caller, ask: ImageAsk) -> Submitted:
        """Hold the price and queue the job, in one commit.

        ModelNotFound, ContentRefused, InsufficientBalance; RateLimited beyond the account's queued jobs; Overloaded.
        """

    async def look(self, job_id: int, signature: str) -> ImageJob:
        """The job as it stands."""

    def watch(self, job_id: int, signature: str) -> AsyncIterator[ImageJob]:
        """The job as it stands, and again after every change until it has ended."""

    async def cancel(self, job_id: int, signature: str) -> ImageJob:
        """End it and release its hold; nothing happens to one that has ended."""

    async def wait(self, submitted: Submitted, timeout_s: float) -> ImageJob:
        """The job once it has ended, or as it stands when the time is up."""
