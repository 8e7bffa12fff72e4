"""Text to image, where a body comes in: a job submitted, a job polled, and OpenAI's form, which waits for its jobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.core.clock import generation_name
from minitoolai.core.errors import (
    ClientLeft,
    EngineError,
    EngineRefused,
    EngineTimeout,
    InsufficientBalance,
    InvalidRequest,
    Overloaded,
    ServiceError,
    StoreError,
)
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ImageJob, ImageJobRequest, SubmittedJob
from minitoolai.core.models import Caller
from minitoolai.core.money import format_dollars
from minitoolai.http.asgi import JSON, Headers, Receive, Scope, Send, read_json_body, respond, respond_error
from minitoolai.http.auth import authenticate
from minitoolai.http.request_context import set_generation
from minitoolai.http.routing import json_response, reads, route
from minitoolai.http.streaming import method_not_allowed
from minitoolai.images.request import Generate, job_number, parse_generate, parse_image, parse_job
from minitoolai.images.results import ImageDelivery, Links
from minitoolai.images.results import body as job_body
from minitoolai.images.service import ImageService
from minitoolai.storage import accounts
from minitoolai.storage.database import Database

# (merged from images_wait) Waiting for pictures while their caller holds the line: all of them are drawn, or nothing is left behind.

#: How often a waiting request looks whether the server is about to stop.
LOOK_EVERY_S = 0.5


async def drawn(
    jobs: ImageService,
    in_flight: InFlight,
    caller: Caller,
    asks: Sequence[ImageJobRequest],
    receive: Receive,
    *,
    within_s: float,
) -> list[ImageJob]:
    """The pictures that came out well, at least one; what failed among them was not charged.

    Whoever leaves, or waits too long, cancels what is not drawn yet: he would pay for what he never sees.
    """
    submitted = await _submit_all(jobs, caller, asks)
    waiting = asyncio.ensure_future(_all_over(jobs, in_flight, submitted, within_s))
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        ended = _result_of(waiting)
    except BaseException:
        waiting.cancel()
        waiting.add_done_callback(_forget)
        # A task of its own: this one may be being cancelled, and then awaits nothing any more.
        await asyncio.shield(asyncio.ensure_future(_cancel_all(jobs, submitted)))
        raise
    finally:
        leaving.cancel()
    good = [job for job in ended if job.state == "succeeded"]
    if not good:
        raise _why(ended[0])
    return good


def _forget(waiting: asyncio.Future[list[ImageJob]]) -> None:
    """Nobody is left to hear of it."""
    if not waiting.cancelled():
        waiting.exception()


def _result_of(waiting: asyncio.Future[list[ImageJob]]) -> list[ImageJob]:
    if not waiting.done():
        raise ClientLeft("the caller hung up")
    return waiting.result()


async def _submit_all(jobs: ImageService, caller: Caller, asks: Sequence[ImageJobRequest]) -> list[SubmittedJob]:
    """All of them, or none."""
    submitted: list[SubmittedJob] = []
    try:
        for ask in asks:
            submitted.append(await jobs.submit(caller, ask))
    except ServiceError:
        await _cancel_all(jobs, submitted)
        raise
    return submitted


async def _all_over(
    jobs: ImageService, in_flight: InFlight, submitted: Sequence[SubmittedJob], within_s: float
) -> list[ImageJob]:
    waits = [asyncio.ensure_future(jobs.wait(one, within_s)) for one in submitted]
    pending: set[asyncio.Future[ImageJob]] = set(waits)
    try:
        while pending:
            _, pending = await asyncio.wait(pending, timeout=LOOK_EVERY_S)
            if in_flight.draining and pending and await _any_queued(jobs, submitted):
                raise Overloaded("the server is restarting; nothing was charged, try again", retry_after_s=2)
        ended = [done.result() for done in waits]
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if not all(job.is_over for job in ended):
        raise EngineTimeout(f"the pictures were not drawn within {within_s:g} s; what was not drawn is not charged")
    return ended


async def _any_queued(jobs: ImageService, submitted: Sequence[SubmittedJob]) -> bool:
    found = [await jobs.look(one.job_id, one.signature) for one in submitted]
    return any(job.state == "queued" for job in found)


async def _cancel_all(jobs: ImageService, submitted: Sequence[SubmittedJob]) -> None:
    for one in submitted:
        # One that cannot be cancelled now is drawn and kept like any other job.
        with contextlib.suppress(ServiceError, StoreError):
            await jobs.cancel(one.job_id, one.signature)


def _why(job: ImageJob) -> ServiceError:
    """A job that failed, as the error of a request that waited for it."""
    why = job.error or "the picture could not be drawn"
    if job.error_code in ("invalid_request", "content_policy"):
        return EngineRefused(f"prompt: {why}; nothing was charged", param="prompt", code=job.error_code)
    return EngineError(f"{why}; nothing was charged")


log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class ImageDesk:
    """Whom the image endpoints ask."""

    jobs: ImageService
    links: Links
    pictures: ImageDelivery
    in_flight: InFlight
    database: Database
    insecure_webhooks: bool
    #: Longest that a request of OpenAI's form waits for its pictures.
    wait_s: float


class _Endpoint:
    """What the three share: POST only, and errors in the shape of their path."""

    def __init__(self, desk: ImageDesk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] != "POST":
            await method_not_allowed(send, path)
            return
        try:
            headers, body = await self._serve(scope, receive)
        except ClientLeft:
            return
        except ServiceError as error:
            await respond_error(send, error, [], path)
            return
        except StoreError as error:
            log.error("%s: %s", path, error)
            await respond_error(send, Overloaded("the database does not answer", retry_after_s=5), [], path)
            return
        except Exception as bug:
            log.exception("%s failed", path)
            ours = ServiceError(f"something went wrong on our side: {type(bug).__name__}")
            await respond_error(send, ours, [], path)
            return
        await respond(send, 200, _encode(body), [JSON, *headers])

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        raise NotImplementedError


class SubmitEndpoint(_Endpoint):
    """`POST /api/texttoimage/`."""

    def __init__(self, desk: ImageDesk, keys: KeyVerifier) -> None:
        super().__init__(desk)
        self._keys = keys

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        caller = await authenticate(scope, self._keys)
        ask = parse_image(await read_json_body(scope, receive), insecure_webhooks=self._desk.insecure_webhooks)
        submitted = await self._desk.jobs.submit(caller, ask)
        set_generation(scope, generation_name(submitted.job_id))
        body = {"status": "success", "jobid": submitted.job_id, "signature": submitted.signature}
        return [_generation(submitted.job_id)], body


class PollEndpoint(_Endpoint):
    """`POST /api/texttoimage/jobs/`: no key, the signature is the capability."""

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        job_id, signature = parse_job(await read_json_body(scope, receive))
        return _NEVER_KEPT, job_body(await self._desk.jobs.look(job_id, signature), self._desk.links)


class GenerateEndpoint(_Endpoint):
    """`POST /v1/images/generations`: the same jobs, waited for."""

    def __init__(self, desk: ImageDesk, keys: KeyVerifier) -> None:
        super().__init__(desk)
        self._keys = keys

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        caller: Caller = await authenticate(scope, self._keys)
        generate = parse_generate(await read_json_body(scope, receive))
        desk = self._desk
        await self._check_balance(caller, generate)
        jobs = await drawn(desk.jobs, desk.in_flight, caller, generate.asks, receive, within_s=desk.wait_s)
        if generate.form == "url":
            data: list[dict[str, Any]] = [{"url": desk.links.link(job.job_id)} for job in jobs]
        else:
            # Bytes are base64 in JSON.
            data = [{"b64_json": await desk.pictures.of_job(job)} for job in jobs]
        created_s = max(job.finished_ms or job.created_ms for job in jobs) // 1000
        names = ", ".join(job.generation for job in jobs)
        return [(b"x-generation-id", names.encode())], {"created": created_s, "data": data}

    async def _check_balance(self, caller: Caller, generate: Generate) -> None:
        """Each picture has a hold of its own; here all are refused before the first of them is drawn."""
        count = len(generate.asks)
        if count == 1:
            return
        needed = count * self._desk.jobs.catalog.image_model(generate.asks[0].model).price
        available = (await self._desk.database.read_async(accounts.balance_of, caller.account_id)).available
        if available < needed:
            raise InsufficientBalance(
                f"{count} pictures cost ${format_dollars(needed)} and the account has ${format_dollars(available)} "
                "available; ask for fewer, or add credit",
                needed=needed,
                available=available,
            )


_NEVER_KEPT: Headers = [(b"cache-control", b"no-store")]


def _generation(job_id: int) -> tuple[bytes, bytes]:
    return (b"x-generation-id", generation_name(job_id).encode())


# (merged from job_views) A job looked at without a key: its events as they come, its end on request, its picture under a link.

#: A comment goes out after so much silence, so that proxies between us keep the connection.
SILENCE_S = 15.0
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def _desk(request: Request) -> ImageDesk:
    return cast(ImageDesk, request.app.state.image_desk)


@route("/api/texttoimage/jobs/{jobid}/events", "GET")
async def events(request: Request) -> Response:
    """What a poll would say, at once and after every change, until the job has ended; then `[DONE]`."""
    desk, job_id, signature = _desk(request), job_number(request.path_params["jobid"]), _signature(request)
    await _look(desk, job_id, signature)
    return StreamingResponse(_told(desk, job_id, signature), media_type="text/event-stream", headers=_STREAM_HEADERS)


@route("/api/texttoimage/jobs/{jobid}", "DELETE")
async def cancel(request: Request) -> Response:
    """End the job and release its hold; the answer is what a poll says then."""
    desk, job_id, signature = _desk(request), job_number(request.path_params["jobid"]), _signature(request)
    try:
        job = await desk.jobs.cancel(job_id, signature)
    except StoreError as error:
        raise _away() from error
    return json_response(job_body(job, desk.links), headers={"cache-control": "no-store"})


@reads("/api/texttoimage/pictures/{name}")
async def picture(request: Request) -> Response:
    """The PNG under a signed link. It never changes, so whoever has it need not fetch it again."""
    query = request.query_params
    desk = _desk(request)
    found = await desk.pictures.find(request.path_params["name"], query.get("expires", ""), query.get("signature", ""))
    etag = f'"{found.digest}"'
    headers = {
        "etag": etag,
        # No longer than the link is good, and not in caches that others share: the link is the only key.
        "cache-control": f"private, max-age={found.left_s}, immutable",
        "content-disposition": f'inline; filename="{found.job_id}.png"',
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "cross-origin",
        "access-control-allow-origin": "*",
    }
    if _has_it(request.headers.get("if-none-match", ""), etag):
        return Response(b"", status_code=304, headers=headers)
    return Response(await desk.pictures.read(found), headers=headers, media_type="image/png")


async def _told(desk: ImageDesk, job_id: int, signature: str) -> AsyncIterator[bytes]:
    """One event for each change. A server about to stop lets its watchers go: they ask again."""
    watching = desk.jobs.watch(job_id, signature)
    silent_s = 0.0
    step: asyncio.Future[ImageJob] = asyncio.ensure_future(anext(watching))
    try:
        while not desk.in_flight.draining:
            await asyncio.wait({step}, timeout=LOOK_EVERY_S)
            if not step.done():
                silent_s += LOOK_EVERY_S
                if silent_s >= SILENCE_S:
                    silent_s = 0.0
                    yield b": still at work\n\n"
                continue
            try:
                job = step.result()
            except StopAsyncIteration:
                yield b"data: [DONE]\n\n"
                return
            silent_s = 0.0
            step = asyncio.ensure_future(anext(watching))
            yield b"data: " + _encode(job_body(job, desk.links)) + b"\n\n"
        yield b": the server is restarting; ask again\n\n"
    except StoreError:
        yield b": the database does not answer; ask again\n\n"
    finally:
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
        await watching.aclose()


def _signature(request: Request) -> str:
    signature: str | None = request.query_params.get("signature")
    if signature is None:
        raise InvalidRequest("signature is missing: append ?signature=… as it came with the jobid", param="signature")
    return signature


async def _look(desk: ImageDesk, job_id: int, signature: str) -> ImageJob:
    try:
        return await desk.jobs.look(job_id, signature)
    except StoreError as error:
        raise _away() from error


def _away() -> Overloaded:
    return Overloaded("the database does not answer; try again", retry_after_s=5)


def _has_it(if_none_match: str, etag: str) -> bool:
    """RFC 9110, 13.1.2: a list of tags, weak ones too, or any."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
