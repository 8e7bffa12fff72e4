"""Image jobs in the database without a worker, and a receiver of webhooks that records its requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minitoolai.core.clock import generation_name
from minitoolai.core.errors import NotFound
from minitoolai.core.inference import ImageJob
from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.core.signing import UrlSigner
from minitoolai.images.results import Links
from minitoolai.ledger.types import PlaceHold
from tests.support.books import NOON_MS, FixedClock, TemporaryBooks, settle
from tests.support.upstream import Exchange, Upstream

PRICE = 1_500_000
_jobs = itertools.count(4_503_599_627_370_000)


def links(clock: FixedClock, lifetime_s: int = 3600) -> Links:
    return Links(UrlSigner(b"a key for tests"), clock, lambda: "http://127.0.0.1:8000", lifetime_s=lifetime_s)


def queued_job(books: TemporaryBooks, account: int, webhook_url: str | None = None) -> int:
    """Queue a job with its hold and return its ID."""
    job_id = next(_jobs)
    generation = NewGeneration(
        "image", "realvision", "sketch", 0, PRICE, "queued", "{}", seed=7, size="s", webhook_url=webhook_url
    )
    head = (job_id, account, "key000000001", "image", 0, PRICE, 1, 1, None, NOON_MS)
    books.apply(PlaceHold(*head, generation, 100))
    return job_id


def end_job(books: TemporaryBooks, account: int, job_id: int, state: Any = "succeeded", key: str | None = None) -> None:
    """End the job as a worker does."""
    if state == "succeeded":
        outcome = Outcome(state, output_units=1, served_model="minitoolai-sketch-1", result=key or "0" * 64 + "-1")
        books.apply(settle(job_id, account, PRICE, outcome))
    else:
        books.apply(settle(job_id, account, 0, Outcome(state, error_code="upstream_error", error="it broke")))


async def find_job(books: TemporaryBooks, job_id: int) -> ImageJob:
    """Return the job from its row, as one of 256x256 pixels in 4 steps."""
    rows = books.database.read(
        lambda c: c.execute(
            "SELECT account_id, state, seed, model, served_model, result, error_code, error, created_ms, finished_ms"
            " FROM generations WHERE id = ?",
            (job_id,),
        )
    )
    if not rows:
        raise NotFound("there is no such job")
    account, state, seed, model, served, key, code, error, created_ms, finished_ms = rows[0]
    return ImageJob(
        job_id=job_id,
        generation=generation_name(job_id),
        account_id=account,
        state=state,
        steps=4,
        step=4 if state == "succeeded" else 0,
        seed=seed,
        model=model,
        served_model=served,
        object=key,
        error_code=code,
        error=error,
        width=256,
        height=256,
        created_ms=created_ms,
        finished_ms=finished_ms,
    )


@contextmanager
def receiver(*statuses: int) -> Iterator[Upstream]:
    """Respond with these statuses in order; the last one repeats."""
    waiting = itertools.chain(statuses[:-1], itertools.repeat(statuses[-1] if statuses else 200))

    async def take(exchange: Exchange) -> None:
        exchange.answer(next(waiting), b"")

    with Upstream(take) as upstream:
        yield upstream
