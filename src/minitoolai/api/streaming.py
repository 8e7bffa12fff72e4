"""What streamed answers of every kind share at the edge: the caller, the watch for one who leaves, the charge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol, TypeVar

from minitoolai.api.asgi import JSON, Headers, Receive, Send, answer
from minitoolai.api.direct import DirectWriter, direct_writer
from minitoolai.api.errors import error_body
from minitoolai.core.errors import AlreadySettled, ClientLeft, InvalidRequest, Overloaded, ServiceError, StoreError
from minitoolai.services.charging import interrupted

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Longest that the end of an answer waits for its charge, should the database be sick.
CHARGE_TIMEOUT_S = 15.0
EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Run(Protocol):
    """Paid work under way, whatever its kind."""

    name: str
    #: Set while somebody may break the answer off by cancelling this task.
    task: asyncio.Task[object] | None
    stop_reason: ServiceError | None

    async def open(self) -> None:
        """Send the request to the engine; returns as its answer begins."""

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Hand every block to `write` as it comes, until the end; wait for what `write` returns, if anything."""

    def ending(self) -> bytes:
        """What to send last, once the charge is durable."""

    async def close(self, error: ServiceError | None = None) -> None:
        """Let go of the engine and finish."""

    async def charge(self, *, within_s: float) -> None:
        """Settle, and return once that is durable. TimeoutError, StoreError."""

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for what was done so far."""

    def stop(self, reason: ServiceError) -> None:
        """Break off from outside."""


class Begun:
    """A coroutine that was begun by hand, to be awaited to its end."""

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


def begin(work: Awaitable[None]) -> Begun | None:
    """Take the first step without a task. Mostly it is the only one: then None, else what is left to await."""
    steps: Any = work.__await__()
    try:
        pause = steps.send(None)
    except StopIteration:
        return None
    return Begun(steps, pause)


class StreamWriter:
    """The caller's side of a stream: the head goes out with the first bytes."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._headers = headers
        self.has_begun = False
        self._is_sending = False
        self._direct: DirectWriter | None = None

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Send; waits while the caller reads slowly."""
        self._is_sending = True
        if not self.has_begun:
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            self._direct = direct_writer(self._send)
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._is_sending = False

    def write_soon(self, data: bytes) -> Awaitable[None] | None:
        """Send at once, without a task; where the caller reads slowly, what to wait for before the next."""
        if not self._is_sending and self._direct is not None and self._direct.write(data):
            return None
        if self.has_begun and not self._is_sending:
            writing = self._send({"type": "http.response.body", "body": data, "more_body": True})
        else:
            writing = self.write(data)
        begun = begin(writing)
        if begun is None:
            return None
        return self._rest(begun)

    async def _rest(self, begun: Begun) -> None:
        self._is_sending = True
        await begun
        self._is_sending = False

    def break_silence(self) -> None:
        """A comment, so that proxies between us keep the connection. Nothing if a write is under way."""
        if not self._is_sending:
            self._comment = asyncio.ensure_future(self.write(b": the model is still at work\n\n"))


async def forward(run: Run, out: StreamWriter, receive: Receive) -> ServiceError | None:
    """Send all of an answer and charge for it. What went wrong, if anything did."""
    watcher = watch(run, receive)
    try:
        error = await attempt(run, lambda: run.flow(out.write_soon))
    finally:
        watcher.cancel()
    if error is None:
        await out.write(run.ending(), is_last=True)
    return error


async def attempt(run: Run, work: Callable[[], Awaitable[T]]) -> T | ServiceError | None:
    """Open the engine, do the work, charge for it, let go of the engine. What came of it, or else what went wrong."""
    result: T | None = None
    error: ServiceError | None = None
    try:
        await run.open()
        result = await work()
        await charge(run)
    except asyncio.CancelledError:
        error = reason_to_stop(run)
    except ServiceError as failure:
        error = failure
    except Exception as bug:
        log.exception("%s failed", run.name)
        error = ServiceError(f"something went wrong on our side: {type(bug).__name__}")
    except BaseException:
        error = ClientLeft("the caller hung up")
        raise
    finally:
        run.task = None
        # Whatever happened, the charge is queued by now; nothing below can undo it.
        await run.close(error)
    return result if error is None else error


async def charge(run: Run) -> None:
    """The end leaves only when the charge is durable."""
    try:
        await run.charge(within_s=CHARGE_TIMEOUT_S)
    except AlreadySettled as error:
        log.error("%s: %s; was this process paused?", run.name, error)
        raise interrupted() from error
    except (StoreError, TimeoutError) as error:
        raise Overloaded("the charge could not be written; the answer is not complete", retry_after_s=5) from error


def watch(run: Run, receive: Receive) -> asyncio.Future[Any]:
    """Break the answer off when the caller hangs up: the next thing to receive can only be that."""
    watcher = asyncio.ensure_future(receive())
    watcher.add_done_callback(lambda _: run.stop(ClientLeft("the caller hung up")))
    return watcher


def reason_to_stop(run: Run) -> ServiceError:
    """Why this task was cancelled: by ourselves, for a reason, or by a server that cannot wait any longer."""
    if run.stop_reason is None:
        run.finish(ClientLeft("the server stopped"))
        raise asyncio.CancelledError
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    return run.stop_reason


async def only_post(send: Send, path: str = "") -> None:
    """405 for every other method."""
    error = InvalidRequest("use POST here", code="method_not_allowed")
    await answer(send, 405, error_body(error, path), [JSON, (b"allow", b"POST")])
