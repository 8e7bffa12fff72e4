"""Stream responses: write chunks, watch for a disconnect, and await the charge before the end is sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol, TypeVar

from minitoolai.billing.charging import interrupted
from minitoolai.core.errors import (
    AlreadySettled,
    ClientLeft,
    InvalidRequest,
    Overloaded,
    ServiceError,
    StoreError,
    internal_error,
)
from minitoolai.core.in_flight import Cancellation, RunFailure
from minitoolai.core.models import AnswerRecorder
from minitoolai.core.telemetry.logs import current_request
from minitoolai.http.asgi import JSON, Headers, Receive, Send, respond, whole_headers
from minitoolai.http.errors import error_body
from minitoolai.http.serving.fast_path import DirectWriter, DisconnectWatcher, direct_writer, disconnect_watcher

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Longest time that the end of a response waits for its charge, if the database is slow.
CHARGE_TIMEOUT_S = 15.0
EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class StreamRun(Protocol):
    """A streamed generation in progress, of any kind."""

    name: str
    #: Cancels the run's task, from other tasks.
    cancellation: Cancellation

    async def open(self) -> None:
        """Send the request to the engine. Returns when its response begins."""

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Pass every block to `write` until the end, and await what `write` returns, if anything."""

    async def count_output(self) -> None:
        """Finish counting the usage, which `final_events` may report."""

    def final_events(self) -> bytes:
        """Return the last block, to be sent once the charge is durable."""

    async def close(self, error: ServiceError | None = None) -> None:
        """Close the engine's response and finish."""

    async def charge(self, *, within_s: float) -> None:
        """Settle and wait until the charge is durable. Raises TimeoutError, StoreError."""

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for the work done so far."""

    def describe_failure(self, error: ServiceError) -> RunFailure:
        """Return model, engine and reason, for the log."""

    def stop(self, reason: ServiceError) -> None:
        """Stop the run from another task."""


class StartedWrite:
    """A coroutine that has already run its first step, to be awaited to its end."""

    def __init__(self, steps: Generator[Any, Any, None], pause: Any) -> None:
        self._steps = steps
        self._pause = pause

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            while True:
                yield self._pause
                self._pause = self._steps.send(None)
        except StopIteration:
            return
        finally:
            self._steps.close()


def run_first_step(work: Awaitable[None]) -> StartedWrite | None:
    """Run the first step of a write now. Return None if that finished it, otherwise an awaitable for the other steps.

    Saves one task wake-up per stream, too little to show in a stream's CPU time (2 ms for 16 tokens, differences within
    3 %). Kept because a write that was returned unstarted would be lost, with its response head, if the stream is
    cancelled before awaiting it.
    """
    steps: Any = work.__await__()
    try:
        pause = steps.send(None)
    except StopIteration:
        return None
    return StartedWrite(steps, pause)


class StreamWriter:
    """Writes a stream to the client. The head is sent with the first bytes."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._headers = headers
        self.has_begun = False
        #: Set to True by the ticker, and to False by each write.
        self.is_silent = True
        self._is_sending = False
        self._direct: DirectWriter | None = None

    @property
    def headers(self) -> Headers:
        return self._headers

    def replace_headers(self, headers: Headers) -> None:
        """Replace the headers, unless they have been sent."""
        self._headers = headers

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Send a block. Waits while the client reads too slowly."""
        self._is_sending, self.is_silent = True, False
        if not self.has_begun:
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            self._direct = direct_writer(self._send)
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._is_sending = False

    def queue_write(self, data: bytes) -> Awaitable[None] | None:
        """Send a block now, without a task. Return something to await if the client reads too slowly."""
        self.is_silent = False
        if not self._is_sending and self._direct is not None and self._direct.write(data):
            return None
        if self.has_begun and not self._is_sending:
            writing = self._send({"type": "http.response.body", "body": data, "more_body": True})
        else:
            writing = self.write(data)
        started = run_first_step(writing)
        if started is None:
            return None
        return self._finish_write(started)

    async def _finish_write(self, started: StartedWrite) -> None:
        self._is_sending = True
        await started
        self._is_sending = False

    def break_silence(self) -> None:
        """Send a comment, so that proxies keep the connection open."""
        self.comment("the model is still at work")

    def comment(self, text: str) -> None:
        """Send a comment, which clients ignore. Does nothing while a write is in progress."""
        if not self._is_sending:
            self._comment = asyncio.ensure_future(self.write(f": {text}\n\n".encode()))


async def stream_with_errors(
    run: StreamRun,
    out: StreamWriter,
    receive: Receive,
    error_event: Callable[[ServiceError], bytes],
    recorder: AnswerRecorder | None,
) -> ServiceError | None:
    """Stream a response to its end. Return an error that still has to be sent, as an HTTP status.

    An error after the first block is sent as `error_event`. `recorder` takes the response before it is charged.
    """
    end = None if recorder is None else _AnnouncedEnd(run, out, error_event, recorder)
    error = await stream_response(run, out, receive, end)
    if error is None or isinstance(error, ClientLeft):
        return None
    if not out.has_begun:
        return error
    # Plain audio has no event: the server closes its connection, so that the caller notices the missing end.
    if last := (end and end.last) or error_event(error):
        await out.write(last, is_last=True)
    return None


async def stream_response(
    run: StreamRun, out: StreamWriter, receive: Receive, end: _AnnouncedEnd | None = None
) -> ServiceError | None:
    """Send a whole response and charge for it. Return the error that ended it, if any."""
    watcher = watch_disconnect(run, receive)
    try:
        if end is None:
            error = await run_and_charge(run, lambda: run.flow(out.queue_write))
        else:
            error = await run_and_charge(run, end.flow, end.fail)
    finally:
        watcher.cancel()
    if error is None:
        await out.write(run.final_events() if end is None else end.last, is_last=True)
    return error


class _AnnouncedEnd:
    """The last block of a stream with an Idempotency-Key: handed over before the charge, and sent after it."""

    def __init__(
        self,
        run: StreamRun,
        out: StreamWriter,
        error_event: Callable[[ServiceError], bytes],
        recorder: AnswerRecorder,
    ) -> None:
        self._run = run
        self._out = out
        self._error_event = error_event
        self._recorder = recorder
        self.last = b""

    async def flow(self) -> None:
        await self._run.flow(self._out.queue_write)
        await self._run.count_output()
        self.last = self._run.final_events()
        await self._recorder.announce(self._out.headers, self.last)

    def fail(self, error: ServiceError) -> None:
        self.last = b""
        if not self._out.has_begun:
            return
        if not isinstance(error, ClientLeft):
            self.last = self._error_event(error)
        self._recorder.announce_failure(self.last or None)


async def announced(
    work: Callable[[], Awaitable[T]],
    recorder: AnswerRecorder,
    render: Callable[[T], tuple[bytes, Headers]],
) -> T:
    """Do the work of a response that is sent whole, and hand it over before it is charged."""
    result = await work()
    body, headers = render(result)
    await recorder.announce(whole_headers(headers, body), body)
    return result


async def run_and_charge(
    run: StreamRun,
    work: Callable[[], Awaitable[T]],
    on_failure: Callable[[ServiceError], None] | None = None,
) -> T | ServiceError | None:
    """Open the engine's response, do the work, charge for it and close. Return the result or the error.

    `on_failure` is called before a failed response is charged.
    """
    result: T | None = None
    error: ServiceError | None = None
    is_logged = False
    try:
        await run.open()
        result = await work()
        await await_charge(run)
    except asyncio.CancelledError:
        error = reason_to_stop(run)
    except ServiceError as failure:
        error = failure
    except Exception as bug:
        log.exception("%s failed", run.name)
        error, is_logged = internal_error(bug), True
    except BaseException:
        error = ClientLeft("The client disconnected.")
        raise
    finally:
        run.cancellation.disarm()
        try:
            if error is not None and on_failure is not None:
                on_failure(error)
        finally:
            # The charge is queued in every case, and nothing below can undo it.
            await run.close(error)
    if error is None:
        return result
    if not is_logged and not isinstance(error, ClientLeft):
        _log_failure(run, error)
    return error


def _log_failure(run: StreamRun, error: ServiceError) -> None:
    """Log the one line about a response that failed: a warning, unless the request itself is at fault."""
    context = current_request.get()
    request = "-" if context is None else context.request_id()
    model, engine, reason = run.describe_failure(error)
    log.log(
        logging.WARNING if error.is_fault else logging.INFO,
        "request %s, generation %s: model %s failed at %s (%s)",
        request,
        run.name,
        model,
        engine,
        reason,
        extra={"fields": {"model": model, "engine": engine, "reason": reason}},
    )


async def await_charge(run: StreamRun) -> None:
    """Wait until the charge is durable, so that a response only ends once it is paid for."""
    try:
        await run.charge(within_s=CHARGE_TIMEOUT_S)
    except AlreadySettled as error:
        raise interrupted() from error
    except (StoreError, TimeoutError) as error:
        raise Overloaded(
            "The charge could not be written, so the response is incomplete. Try again.", retry_after_s=5
        ) from error


def watch_disconnect(run: StreamRun, receive: Receive) -> asyncio.Future[Any] | DisconnectWatcher:
    """Stop the run when the client disconnects. Cancel the result at the end of the response.

    The request is complete, so the next message can only be a disconnect.
    """
    direct = disconnect_watcher(receive, lambda: run.stop(ClientLeft("The client disconnected.")))
    if direct is not None:
        return direct
    watcher = asyncio.ensure_future(receive())
    watcher.add_done_callback(lambda _: run.stop(ClientLeft("The client disconnected.")))
    return watcher


def reason_to_stop(run: StreamRun) -> ServiceError:
    """Return why this task was cancelled: by `stop`, with a reason.

    If the server is shutting down, raise CancelledError.
    """
    reason = run.cancellation.take()
    if reason is None:
        run.finish(ClientLeft("The server is shutting down."))
        raise asyncio.CancelledError
    return reason


async def method_not_allowed(send: Send, path: str = "") -> None:
    """Send a 405 for any method but POST."""
    error = InvalidRequest("This endpoint only accepts POST.", code="method_not_allowed")
    await respond(send, 405, error_body(error, path), [JSON, (b"allow", b"POST")])
