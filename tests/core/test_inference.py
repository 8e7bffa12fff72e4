"""Requests to engines and their results."""

from __future__ import annotations

import msgspec
import pytest

from minitoolai.core.inference import ImageJob, ImageJobRequest, TokenDetails, Usage, decode_image_job_request


def job(state: str, step: int = 0) -> ImageJob:
    return ImageJob(
        job_id=1, generation="gen-1", account_id=1000, state=state, step=step, steps=8, seed=1, model="m",  # type: ignore[arg-type]
        width=64, height=64, created_ms=0,
    )  # fmt: skip


def test_cached_tokens_are_zero_where_the_engine_reports_none() -> None:
    assert Usage(3, 5).cached_tokens == 0
    assert Usage(3, 5, prompt_tokens_details=TokenDetails(cached_tokens=None)).cached_tokens == 0
    assert Usage(3, 5, prompt_tokens_details=TokenDetails(cached_tokens=2)).cached_tokens == 2


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_job_that_ended_is_over(state: str) -> None:
    assert job(state).is_over


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_job_before_its_end_is_not_over(state: str) -> None:
    assert not job(state).is_over


def test_progress_is_the_share_of_steps_and_whole_after_success() -> None:
    assert [job("running", step).progress for step in (0, 2, 8)] == [0.0, 0.25, 1.0]
    assert job("succeeded", 3).progress == 1.0
    assert job("failed", 2).progress == 0.25


def test_a_stored_request_is_read_back_with_its_defaults() -> None:
    request = ImageJobRequest(model="m", prompt="a sun", steps=9)
    assert decode_image_job_request(msgspec.json.encode(request)) == request
    # A row of an earlier version without the newer fields.
    old = decode_image_job_request(b'{"model": "m", "prompt": "a sun", "retired_field": 1}')
    assert (old.steps, old.scheduler, old.trace) == (4, "DPM++ SDE", None)
