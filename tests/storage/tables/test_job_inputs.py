"""Uploads of jobs are found for deletion when their job has ended or never began."""

from __future__ import annotations

from minitoolai.storage.tables import job_inputs
from tests.support.books import TemporaryBooks, hold, settle


def test_uploads_are_those_of_a_job_each_once(books: TemporaryBooks) -> None:
    job_inputs.add(books.connection, 1, ["a", "b", "a"], 5)
    job_inputs.add(books.connection, 2, ["c"], 5)
    assert sorted(job_inputs.keys_of(books.connection, 1)) == ["a", "b"]
    job_inputs.remove(books.connection, ["a", "c"])
    assert job_inputs.keys_of(books.connection, 1) == ["b"]
    assert job_inputs.keys_of(books.connection, 2) == []


def test_uploads_of_running_jobs_and_of_those_just_submitted_are_kept(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 10), hold(2, account, 10), settle(2, account, 5))
    for job, key, at_ms in ((1, "running", 1), (2, "ended", 1), (3, "refused", 1), (4, "submitted", 50)):
        job_inputs.add(books.connection, job, [key], at_ms)
    assert sorted(job_inputs.unneeded(books.connection, 50, 10)) == ["ended", "refused"]
    assert len(job_inputs.unneeded(books.connection, 50, 1)) == 1
