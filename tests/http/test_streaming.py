"""Streaming: how a run ends, what its client receives, and when it is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from minitoolai.core.errors import AlreadySettled, ClientLeft, EngineError, Overloaded, ServiceError, StoreError
from minitoolai.core.in_flight import Cancellation, RunFailure
from minitoolai.http.streaming import (
    EVENT_STREAM,
    StreamWriter,
    await_charge,
    method_not_allowed,
    run_and_charge,
    stream_response,
)


class Run:
    """A run of two blocks that records what happens to it."""

    name = "gen-1"

    def __init__(self) -> None:
        self.cancellation = Cancellation()
        self.cancellation.arm()
        self.steps: list[object] = []
        self.charge_error: BaseException | None = None
        self.engine_error: Exception | None = None
        self.hangs = False

    async def open(self) -> None:
        self.steps.append("open")

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        for block in (b"one", b"two"):
            waiting = write(block)
            if waiting is not None:
                await waiting
        if self.hangs:
            await asyncio.sleep(60)
        if self.engine_error is not None:
            raise self.engine_error

    def final_events(self) -> bytes:
        self.steps.append("final_events")
        return b"end"

    async def charge(self, *, within_s: float) -> None:
        self.steps.append("charge")
        if self.charge_error is not None:
            raise self.charge_error

    async def close(self, error: ServiceError | None = None) -> None:
        self.steps.append(("close", error and error.code))

    def finish(self, error: ServiceError | None = None) -> None:
        self.steps.append(("finish", error and error.code))

    def describe_failure(self, error: ServiceError) -> RunFailure:
        return RunFailure("m", "far", error.code)

    def stop(self, reason: ServiceError) -> None:
        self.cancellation.cancel(reason)


async def streamed(run: Run, *, leaves: bool = False) -> tuple[ServiceError | None, list[Any]]:
    """Stream a run to a client that stays, or leaves once the run waits."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.sleep(0.01 if leaves else 60)
        return {"type": "http.disconnect"}

    return await stream_response(run, StreamWriter(send, EVENT_STREAM), receive), sent


def test_the_end_of_a_stream_is_sent_after_its_charge() -> None:
    async def work() -> None:
        run = Run()
        error, sent = await streamed(run)
        assert error is None
        assert run.steps == ["open", "charge", ("close", None), "final_events"]
        assert sent[0] == {"type": "http.response.start", "status": 200, "headers": EVENT_STREAM}
        assert [(message["body"], message["more_body"]) for message in sent[1:]] == [
            (b"one", True),
            (b"two", True),
            (b"end", False),
        ]

    asyncio.run(work())


def test_a_client_that_disconnects_stops_the_run() -> None:
    async def work() -> None:
        run = Run()
        run.hangs = True
        async with asyncio.timeout(10):
            error, sent = await streamed(run, leaves=True)
        assert isinstance(error, ClientLeft)
        assert run.steps == ["open", ("close", "client_left")]
        assert sent[-1]["more_body"]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("failure", "code"), [(EngineError("broken"), "upstream_error"), (ZeroDivisionError("bug"), "internal_error")]
)
def test_a_failed_run_is_closed_with_its_error_and_not_ended(
    failure: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        run = Run()
        run.engine_error = failure
        error, sent = await streamed(run)
        assert error is not None
        assert error.code == code
        assert run.steps == ["open", ("close", code)]
        assert sent[-1]["more_body"]
        # A bug is logged with its traceback, and that is its only line.
        assert [record.levelname for record in caplog.records] == ["ERROR" if code == "internal_error" else "WARNING"]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (StoreError("disk full"), "overloaded"),
        (TimeoutError("slow"), "overloaded"),
        (AlreadySettled("by another"), "interrupted"),
    ],
)
def test_a_stream_that_cannot_be_charged_does_not_end(failure: Exception, code: str) -> None:
    async def work() -> None:
        run = Run()
        run.charge_error = failure
        error, sent = await streamed(run)
        assert error is not None
        assert error.code == code
        assert b"end" not in [message.get("body") for message in sent]
        assert run.steps[-1] == ("close", code)

    asyncio.run(work())


def test_a_charge_that_failed_is_retryable() -> None:
    async def work() -> None:
        run = Run()
        run.charge_error = StoreError("disk full")
        with pytest.raises(Overloaded) as refusal:
            await await_charge(run)
        assert refusal.value.retry_after_s == 5

    asyncio.run(work())


def test_a_task_that_the_server_cancels_settles_and_stays_cancelled() -> None:
    async def work() -> None:
        runs: list[Run] = []

        async def serve() -> None:
            run = Run()
            runs.append(run)
            await run_and_charge(run, lambda: asyncio.sleep(60))

        task = asyncio.create_task(serve())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert runs[0].steps == ["open", ("finish", "client_left"), ("close", None)]

    asyncio.run(work())


def test_a_run_can_no_longer_be_stopped_once_it_has_ended() -> None:
    async def work() -> None:
        run = Run()
        await streamed(run)
        assert run.cancellation.task is None
        run.stop(ClientLeft("late"))
        await asyncio.sleep(0)

    asyncio.run(work())


def test_a_comment_is_only_sent_between_writes() -> None:
    async def work() -> None:
        sent: list[Any] = []
        may_go_on = asyncio.Event()

        async def send(message: Any) -> None:
            sent.append(message)
            await may_go_on.wait()

        out = StreamWriter(send, EVENT_STREAM)
        waiting = out.queue_write(b"one")
        assert waiting is not None
        writing = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        out.break_silence()
        may_go_on.set()
        await writing
        assert [message.get("body") for message in sent] == [None, b"one"]
        out.break_silence()
        await asyncio.sleep(0.01)
        assert sent[-1]["body"].startswith(b": ")

    asyncio.run(work())


def test_a_write_that_finishes_immediately_needs_no_waiting() -> None:
    async def work() -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        out = StreamWriter(send, EVENT_STREAM)
        assert out.queue_write(b"one") is None
        assert out.queue_write(b"two") is None
        assert [message.get("body") for message in sent] == [None, b"one", b"two"]

    asyncio.run(work())


def test_another_method_is_a_405_that_names_post() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(method_not_allowed(send))
    assert sent[0]["status"] == 405
    assert (b"allow", b"POST") in sent[0]["headers"]
