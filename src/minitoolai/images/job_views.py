"""A job looked at without a key: its events as they come, its end on request, its picture under a link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
from litestar import Request, Response, delete, get
from litestar.datastructures import State
from litestar.response import Stream

from minitoolai.core.errors import InvalidRequest, Overloaded, StoreError
from minitoolai.core.pictures import ImageJob
from minitoolai.http.reading import reads
from minitoolai.images.endpoints import ImageDesk
from minitoolai.images.job_words import body as job_body
from minitoolai.images.request import job_number

#: A comment goes out after so much silence, so that proxies between us keep the connection.
SILENCE_S = 15.0
LOOK_EVERY_S = 0.5
_encode = msgspec.json.Encoder().encode
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def _desk(request: Request[Any, Any, State]) -> ImageDesk:
    return cast(ImageDesk, request.app.state.image_desk)


@get("/api/texttoimage/jobs/{jobid:str}/events")
async def events(request: Request[Any, Any, State], jobid: str) -> Stream:
    """What a poll would say, at once and after every change, until the job has ended; then `[DONE]`."""
    desk, job_id, signature = _desk(request), job_number(jobid), _signature(request)
    await _look(desk, job_id, signature)
    return Stream(_told(desk, job_id, signature), media_type="text/event-stream", headers=_STREAM_HEADERS)


@delete("/api/texttoimage/jobs/{jobid:str}", status_code=200)
async def cancel(request: Request[Any, Any, State], jobid: str) -> Response[Any]:
    """End the job and release its hold; the answer is what a poll says then."""
    desk, job_id, signature = _desk(request), job_number(jobid), _signature(request)
    try:
        job = await desk.jobs.cancel(job_id, signature)
    except StoreError as error:
        raise _away() from error
    return Response(job_body(job, desk.links), headers={"cache-control": "no-store"})


@reads("/api/texttoimage/pictures/{name:str}")
async def picture(request: Request[Any, Any, State], name: str) -> Response[bytes]:
    """The PNG under a signed link. It never changes, so whoever has it need not fetch it again."""
    query = request.query_params
    desk = _desk(request)
    found = await desk.pictures.find(name, query.get("expires", ""), query.get("signature", ""))
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
        return Response(b"", status_code=304, headers=headers, media_type="image/png")
    return Response(await desk.pictures.read(found), headers=headers, media_type="image/png")


async def _told(desk: ImageDesk, job_id: int, signature: str) -> AsyncIterator[bytes]:
    """One event for each change. A server about to stop lets its watchers go: they ask again."""
    watching = desk.jobs.watch(job_id, signature)
    silent_s = 0.0
    step: asyncio.Future[ImageJob] = asyncio.ensure_future(anext(watching))
    try:
        while not desk.underway.draining:
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


def _signature(request: Request[Any, Any, State]) -> str:
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
