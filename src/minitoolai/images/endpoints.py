"""HTTP endpoints of image jobs: submit, poll, generate in OpenAI's format, events, cancel, download.

The endpoints that take a body are plain ASGI apps that bypass the web framework; the others are Starlette handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
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
    InvalidRequest,
    Overloaded,
    ServiceError,
    StoreError,
)
from minitoolai.core.inference import EditInputs, ImageJob, ImageJobRequest, ImageTask, SubmittedJob
from minitoolai.core.models import Caller
from minitoolai.core.threads import PICTURES
from minitoolai.engines.images.codec import EDITS
from minitoolai.engines.images.editing.uploads import read_uploads
from minitoolai.http.asgi import JSON, Headers, Receive, Scope, Send, respond, respond_error, whole_headers
from minitoolai.http.auth import authenticate
from minitoolai.http.bodies.bodies import BodyLimits, read_parsed
from minitoolai.http.bodies.uploads import Form
from minitoolai.http.failure_limits import FailureLimits
from minitoolai.http.request_context import set_generation
from minitoolai.http.routing import MethodRoute, json_response, reads, route
from minitoolai.http.streaming import method_not_allowed
from minitoolai.images.edit_request import EditForms, EditRequest, parse_edit_form, parse_edit_job
from minitoolai.images.request import ResponseFormat, job_number, parse_generate, parse_image, parse_job
from minitoolai.images.results import ImageDelivery, Links, job_json, media_type
from minitoolai.images.service import ImageService

log = logging.getLogger(__name__)

#: A waiting request checks this often whether the server is about to stop.
CHECK_DRAINING_EVERY_S = 0.5
#: Send a comment after this much silence, so that proxies keep the connection open.
HEARTBEAT_AFTER_S = 15.0

#: ID of the last event of a stream. A browser that reconnects sends it back.
LAST_EVENT_ID = "done"
_EVENT_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_NO_STORE: Headers = [(b"cache-control", b"no-store")]
_encode = msgspec.json.Encoder().encode

# ── endpoints with a body ─────────────────────────────────────────────────────────────────────────────────


class _Endpoint:
    """Base class: accept POST only, and render errors in the format of the path."""

    limits: BodyLimits

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
            await respond_error(send, self._error_for(scope, error), [], path)
            return
        except StoreError as error:
            log.error("%s: %s", path, error)
            await respond_error(send, _database_down(), [], path)
            return
        except Exception as bug:
            log.exception("%s failed", path)
            internal = ServiceError(f"something went wrong on our side: {type(bug).__name__}")
            await respond_error(send, internal, [], path)
            return
        await respond(send, 200, _encode(body), [JSON, *headers])

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        raise NotImplementedError

    def _error_for(self, scope: Scope, error: ServiceError) -> ServiceError:
        """Return the error to answer a request that failed with this one."""
        return error


class SubmitEndpoint(_Endpoint):
    """`POST /api/texttoimage/`: submit a job."""

    def __init__(
        self, keys: KeyVerifier, service: ImageService, limits: BodyLimits, *, insecure_webhooks: bool
    ) -> None:
        self.limits = limits
        self._keys = keys
        self._service = service
        self._insecure_webhooks = insecure_webhooks

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        caller = await authenticate(scope, self._keys)
        parse = partial(parse_image, insecure_webhooks=self._insecure_webhooks)
        request = await read_parsed(parse, scope, receive, self.limits)
        announce = announcer(caller)
        return _submitted(scope, await self._service.submit(caller, request, announce=announce))


def announcer(caller: Caller) -> Callable[[SubmittedJob], Awaitable[None]] | None:
    """Return what hands over the answer to a job that is about to be queued, if it has an Idempotency-Key."""
    recorder = None if caller.claim is None else caller.claim.recorder
    if recorder is None:
        return None

    async def announce(job: SubmittedJob) -> None:
        headers, answer = _answer_of(job)
        body = _encode(answer)
        await recorder.announce(whole_headers([JSON, *headers], body), body)

    return announce


def _submitted(scope: Scope, job: SubmittedJob) -> tuple[Headers, dict[str, Any]]:
    """Return headers and body of the answer to a submitted job."""
    set_generation(scope, generation_name(job.job_id))
    return _answer_of(job)


def _answer_of(job: SubmittedJob) -> tuple[Headers, dict[str, Any]]:
    body: dict[str, Any] = {"status": "success", "jobid": job.job_id, "signature": job.signature}
    if job.waits_for_worker:
        body["message"] = "The job is queued, but no worker is running at the moment. It starts once one is."
    return [(b"x-generation-id", generation_name(job.job_id).encode())], body


class PollEndpoint(_Endpoint):
    """`POST /api/texttoimage/jobs/`: read a job. Needs no API key, because the signature is the capability."""

    def __init__(self, service: ImageService, links: Links, limits: BodyLimits, failures: FailureLimits) -> None:
        self.limits = limits
        self._service = service
        self._links = links
        self._failures = failures

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        job_id, signature = await read_parsed(parse_job, scope, receive, self.limits)
        return _NO_STORE, job_json(await self._service.get(job_id, signature), self._links)

    def _error_for(self, scope: Scope, error: ServiceError) -> ServiceError:
        return self._failures.error_for(scope, error)


class GenerateEndpoint(_Endpoint):
    """`POST /v1/images/generations`: submit jobs and wait for them, in OpenAI's format."""

    def __init__(
        self,
        keys: KeyVerifier,
        service: ImageService,
        delivery: ImageDelivery,
        limits: BodyLimits,
        *,
        timeout_s: float,
    ) -> None:
        """`timeout_s` is the longest wait for the images of one request."""
        self.limits = limits
        self._keys = keys
        self._service = service
        self._delivery = delivery
        self._timeout_s = timeout_s

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        caller = await authenticate(scope, self._keys)
        request = await read_parsed(parse_generate, scope, receive, self.limits)
        jobs = await wait_for_first(self._service, caller, self._timeout_s)
        if jobs is None:
            if len(request.images) > 1:
                await self._service.check_balance(caller, request.images[0], len(request.images))
            jobs = await generate_all(self._service, caller, request.images, receive, timeout_s=self._timeout_s)
        return await _openai_answer(self._delivery, jobs, request.response_format)


async def _openai_answer(
    delivery: ImageDelivery, jobs: Sequence[ImageJob], response_format: ResponseFormat
) -> tuple[Headers, dict[str, Any]]:
    """Return headers and body of an answer in OpenAI's format."""
    if response_format == "url":
        data: list[dict[str, Any]] = [{"url": delivery.links.link(job.job_id, job.output_format)} for job in jobs]
    else:
        # msgspec encodes bytes as base64.
        data = [{"b64_json": await delivery.read_job(job)} for job in jobs]
    created_s = max(job.finished_ms or job.created_ms for job in jobs) // 1000
    names = ", ".join(job.generation for job in jobs)
    answer: dict[str, Any] = {"created": created_s, "data": data}
    if any(job.is_demo for job in jobs):
        answer |= {"model": jobs[0].shown_model, "demo": True}
    return [(b"x-generation-id", names.encode())], answer


class _EditEndpoint(_Endpoint):
    """Base class of endpoints that receive an image to change."""

    def __init__(self, keys: KeyVerifier, service: ImageService, forms: EditForms) -> None:
        self._keys = keys
        self._service = service
        self._forms = forms

    def received(self, caller: Caller, scope: Scope, receive: Receive) -> AbstractAsyncContextManager[Form]:
        """Receive the form. For requests with an Idempotency-Key, which is compared before the handler is called."""
        return self._forms.received(caller.account_id, scope, receive)

    async def _prepare(self, caller: Caller, request: EditRequest) -> tuple[list[ImageJobRequest], EditInputs]:
        """Check what can be checked without decoding, then decode the uploads. Return the jobs and what they change."""
        service = self._service
        if request.task in EDITS:
            service.check_images(request.jobs[0].model, len(request.images))
        await service.check_balance(caller, request.jobs[0], len(request.jobs))
        uploads = await PICTURES.run(read_uploads, request.images, request.mask, is_edit=request.task == "edit")
        width, height = request.size_for(*uploads.size)
        prepare = uploads.unscaled if request.task == "upscale" else partial(uploads.prepared, width, height)
        return request.sized(width, height), await PICTURES.run(prepare)


class SubmitEditEndpoint(_EditEndpoint):
    """`POST /api/imagetoimage/`: submit a job that changes or enlarges an image."""

    def __init__(self, keys: KeyVerifier, service: ImageService, forms: EditForms, *, insecure_webhooks: bool) -> None:
        super().__init__(keys, service, forms)
        self._insecure_webhooks = insecure_webhooks

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        caller = await authenticate(scope, self._keys)
        async with self.received(caller, scope, receive) as form:
            request = parse_edit_job(form, insecure_webhooks=self._insecure_webhooks)
            jobs, inputs = await self._prepare(caller, request)
        return _submitted(scope, await self._service.submit(caller, jobs[0], inputs, announcer(caller)))


class EditEndpoint(_EditEndpoint):
    """`POST /v1/images/edits` and `/v1/images/variations`: submit jobs and wait for them, in OpenAI's format."""

    def __init__(
        self,
        keys: KeyVerifier,
        service: ImageService,
        delivery: ImageDelivery,
        forms: EditForms,
        task: ImageTask,
        *,
        timeout_s: float,
    ) -> None:
        super().__init__(keys, service, forms)
        self._delivery = delivery
        self._task: ImageTask = task
        self._timeout_s = timeout_s

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        caller = await authenticate(scope, self._keys)
        async with self.received(caller, scope, receive) as form:
            request = parse_edit_form(form, self._task)
            ended = await wait_for_first(self._service, caller, self._timeout_s)
            if ended is None:
                jobs, inputs = await self._prepare(caller, request)
        if ended is None:
            ended = await generate_all(self._service, caller, jobs, receive, timeout_s=self._timeout_s, inputs=inputs)
        return await _openai_answer(self._delivery, ended, request.response_format)


# ── waiting for jobs ──────────────────────────────────────────────────────────────────────────────────────


async def generate_all(
    service: ImageService,
    caller: Caller,
    requests: Sequence[ImageJobRequest],
    receive: Receive,
    *,
    timeout_s: float,
    inputs: EditInputs | None = None,
) -> list[ImageJob]:
    """Submit these jobs, wait for them, and return those that succeeded, at least one. Failed ones were not charged.

    If the client disconnects or the time is up, cancel all unfinished jobs, so that the caller does not pay for
    images that it cannot receive.
    """
    submitted = await _submit_all(service, caller, requests, inputs)
    waiting = asyncio.ensure_future(_wait_all(service, submitted, timeout_s))
    disconnected = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({waiting, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientLeft("the client disconnected")  # noqa: TRY301
        ended = waiting.result()
    except BaseException:
        waiting.cancel()
        waiting.add_done_callback(_retrieve_exception)
        # In a task of its own, because the current task may itself be cancelled.
        await asyncio.shield(asyncio.ensure_future(_cancel_all(service, submitted)))
        raise
    finally:
        disconnected.cancel()
    return _succeeded(ended)


async def wait_for_first(service: ImageService, caller: Caller, timeout_s: float) -> list[ImageJob] | None:
    """Wait for the jobs of the first request with this Idempotency-Key, if its process was lost; else return None.

    They are not cancelled if the client disconnects: the process may be alive after all.
    """
    if caller.claim is None or not caller.claim.job_ids:
        return None
    return _succeeded(await _wait_all(service, list(map(service.known_job, caller.claim.job_ids)), timeout_s))


def _succeeded(ended: Sequence[ImageJob]) -> list[ImageJob]:
    """Return the jobs that succeeded. Raise the failure of the first if there are none."""
    succeeded = [job for job in ended if job.state == "succeeded"]
    if not succeeded:
        raise _failure(ended[0])
    return succeeded


def _retrieve_exception(waiting: asyncio.Future[list[ImageJob]]) -> None:
    """Mark the exception as retrieved, so that asyncio does not log it."""
    if not waiting.cancelled():
        waiting.exception()


async def _submit_all(
    service: ImageService, caller: Caller, requests: Sequence[ImageJobRequest], inputs: EditInputs | None
) -> list[SubmittedJob]:
    """Submit all jobs or, if one is refused, none."""
    submitted: list[SubmittedJob] = []
    job_ids = [service.new_job_id() for _ in requests]
    if caller.claim is not None and caller.claim.recorder is not None:
        caller.claim.recorder.announce_jobs(job_ids)
    try:
        for request, job_id in zip(requests, job_ids, strict=True):
            submitted.append(await service.submit(caller, request, inputs, job_id=job_id))
    except ServiceError:
        await _cancel_all(service, submitted)
        raise
    return submitted


async def _wait_all(service: ImageService, submitted: Sequence[SubmittedJob], timeout_s: float) -> list[ImageJob]:
    waits = [asyncio.ensure_future(service.wait(job, timeout_s)) for job in submitted]
    pending: set[asyncio.Future[ImageJob]] = set(waits)
    try:
        while pending:
            _, pending = await asyncio.wait(pending, timeout=CHECK_DRAINING_EVERY_S)
            if service.in_flight.draining and pending and await _any_queued(service, submitted):
                raise Overloaded("the server is restarting; nothing was charged, try again", retry_after_s=2)
        ended = [done.result() for done in waits]
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if not all(job.is_over for job in ended):
        raise EngineTimeout(
            f"the images were not finished within {timeout_s:g} s; unfinished images are not charged, try again"
        )
    return ended


async def _any_queued(service: ImageService, submitted: Sequence[SubmittedJob]) -> bool:
    jobs = [await service.get(job.job_id, job.signature) for job in submitted]
    return any(job.state == "queued" for job in jobs)


async def _cancel_all(service: ImageService, submitted: Sequence[SubmittedJob]) -> None:
    for job in submitted:
        # A job that cannot be cancelled now runs and is stored like any other.
        with contextlib.suppress(ServiceError, StoreError):
            await service.cancel(job.job_id, job.signature)


def _failure(job: ImageJob) -> ServiceError:
    """Return the failure of a job as the error of the request that waited for it."""
    reason = job.error or "the image could not be generated"
    if job.error_code in ("invalid_request", "content_policy"):
        return EngineRefused(f"prompt: {reason}; nothing was charged", param="prompt", code=job.error_code)
    return EngineError(f"{reason}; nothing was charged")


# ── endpoints without an API key ──────────────────────────────────────────────────────────────────────────


@route("/api/texttoimage/jobs/{jobid}/events", "GET")
async def events(request: Request) -> Response:
    """Stream the job's state now and after every change as server-sent events, until it has ended; then `[DONE]`."""
    job_id, signature = job_number(request.path_params["jobid"]), _signature(request)
    try:
        job = await _service(request).get(job_id, signature)
    except StoreError as error:
        raise _database_down() from error
    if request.headers.get("last-event-id") == LAST_EVENT_ID and job.is_over:
        # An EventSource reconnects after every end of a stream, until it gets a 204 (WHATWG HTML, 9.2.3).
        return Response(status_code=204, headers=_EVENT_HEADERS)
    stream = _events(_service(request), _delivery(request).links, job_id, signature)
    return StreamingResponse(stream, media_type="text/event-stream", headers=_EVENT_HEADERS)


@route("/api/texttoimage/jobs/{jobid}", "DELETE")
async def cancel(request: Request) -> Response:
    """Cancel the job, release its hold, and return its state as a poll does."""
    job_id, signature = job_number(request.path_params["jobid"]), _signature(request)
    try:
        job = await _service(request).cancel(job_id, signature)
    except StoreError as error:
        raise _database_down() from error
    return json_response(job_json(job, _delivery(request).links), headers={"cache-control": "no-store"})


#: The same for jobs of `/api/imagetoimage/`.
edit_events = MethodRoute("/api/imagetoimage/jobs/{jobid}/events", events.endpoints)
cancel_edit = MethodRoute("/api/imagetoimage/jobs/{jobid}", cancel.endpoints)


@reads("/api/texttoimage/pictures/{name}")
async def download(request: Request) -> Response:
    """Return the image that a signed link names. It never changes, so clients may cache it while the link is valid."""
    query, delivery = request.query_params, _delivery(request)
    file = await delivery.find(request.path_params["name"], query.get("expires", ""), query.get("signature", ""))
    etag = f'"{file.digest}"'
    headers = {
        "etag": etag,
        # Until the link expires, and never in shared caches: the link is the only protection.
        "cache-control": f"private, max-age={file.left_s}, immutable",
        "content-disposition": f'inline; filename="{request.path_params["name"]}"',
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "cross-origin",
        "access-control-allow-origin": "*",
    }
    if _etag_matches(request.headers.get("if-none-match", ""), etag):
        return Response(b"", status_code=304, headers=headers)
    image = await delivery.read(file)
    return Response(image, headers=headers, media_type=media_type(image))


async def _events(service: ImageService, links: Links, job_id: int, signature: str) -> AsyncIterator[bytes]:
    """Yield one event per change. A server that is about to stop ends the stream, so that clients reconnect."""
    changes = service.watch(job_id, signature)
    silent_s = 0.0
    change: asyncio.Future[ImageJob] = asyncio.ensure_future(anext(changes))
    try:
        while not service.in_flight.draining:
            await asyncio.wait({change}, timeout=CHECK_DRAINING_EVERY_S)
            if not change.done():
                silent_s += CHECK_DRAINING_EVERY_S
                if silent_s >= HEARTBEAT_AFTER_S:
                    silent_s = 0.0
                    yield b": still at work\n\n"
                continue
            try:
                job = change.result()
            except StopAsyncIteration:
                # In an event of its own, without data: clients that read only lines of data see no difference.
                yield b"id: " + LAST_EVENT_ID.encode() + b"\n\ndata: [DONE]\n\n"
                return
            silent_s = 0.0
            change = asyncio.ensure_future(anext(changes))
            yield b"data: " + _encode(job_json(job, links)) + b"\n\n"
        yield b": the server is restarting; reconnect\n\n"
    except StoreError:
        yield b": the database does not respond; reconnect\n\n"
    finally:
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)
        await changes.aclose()


def _service(request: Request) -> ImageService:
    return cast(ImageService, request.app.state.image_service)


def _delivery(request: Request) -> ImageDelivery:
    return cast(ImageDelivery, request.app.state.image_delivery)


def _signature(request: Request) -> str:
    signature: str | None = request.query_params.get("signature")
    if signature is None:
        raise InvalidRequest(
            "signature is missing: append ?signature=… with the signature that you received with the jobid",
            param="signature",
        )
    return signature


def _database_down() -> Overloaded:
    return Overloaded("the database does not respond; try again", retry_after_s=5)


def _etag_matches(if_none_match: str, etag: str) -> bool:
    """Return True if `If-None-Match` lists this tag, also as a weak one, or is `*` (RFC 9110, 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
