"""Text to image, where a body comes in: a job submitted, a job polled, and OpenAI's form, which waits for its jobs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec

from minitoolai.accounts.keys import KeyRing
from minitoolai.core.clock import generation_name
from minitoolai.core.errors import ClientLeft, InsufficientBalance, Overloaded, ServiceError, StoreError
from minitoolai.core.in_flight import Underway
from minitoolai.core.models import Caller
from minitoolai.core.money import format_dollars
from minitoolai.http.asgi import JSON, Headers, Receive, Scope, Send, answer, answer_error, read_json_body
from minitoolai.http.auth import authenticate
from minitoolai.http.request_context import name_work
from minitoolai.http.streaming import only_post
from minitoolai.images.images_wait import drawn
from minitoolai.images.job_words import body as job_body
from minitoolai.images.links import Links
from minitoolai.images.request import Generate, parse_generate, parse_image, parse_job
from minitoolai.images.results import Pictures
from minitoolai.images.service import ImageService
from minitoolai.storage import accounts as account_rows
from minitoolai.storage.database import Database

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class ImageDesk:
    """Whom the image endpoints ask."""

    jobs: ImageService
    links: Links
    pictures: Pictures
    underway: Underway
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
            await only_post(send, path)
            return
        try:
            headers, body = await self._serve(scope, receive)
        except ClientLeft:
            return
        except ServiceError as error:
            await answer_error(send, error, [], path)
            return
        except StoreError as error:
            log.error("%s: %s", path, error)
            await answer_error(send, Overloaded("the database does not answer", retry_after_s=5), [], path)
            return
        except Exception as bug:
            log.exception("%s failed", path)
            ours = ServiceError(f"something went wrong on our side: {type(bug).__name__}")
            await answer_error(send, ours, [], path)
            return
        await answer(send, 200, _encode(body), [JSON, *headers])

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        raise NotImplementedError


class SubmitEndpoint(_Endpoint):
    """`POST /api/texttoimage/`."""

    def __init__(self, desk: ImageDesk, keys: KeyRing) -> None:
        super().__init__(desk)
        self._keys = keys

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        caller = await authenticate(scope, self._keys)
        ask = parse_image(await read_json_body(scope, receive), insecure_webhooks=self._desk.insecure_webhooks)
        submitted = await self._desk.jobs.submit(caller, ask)
        name_work(scope, generation_name(submitted.job_id))
        body = {"status": "success", "jobid": submitted.job_id, "signature": submitted.signature}
        return [_generation(submitted.job_id)], body


class PollEndpoint(_Endpoint):
    """`POST /api/texttoimage/jobs/`: no key, the signature is the capability."""

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        job_id, signature = parse_job(await read_json_body(scope, receive))
        return _NEVER_KEPT, job_body(await self._desk.jobs.look(job_id, signature), self._desk.links)


class GenerateEndpoint(_Endpoint):
    """`POST /v1/images/generations`: the same jobs, waited for."""

    def __init__(self, desk: ImageDesk, keys: KeyRing) -> None:
        super().__init__(desk)
        self._keys = keys

    async def _serve(self, scope: Scope, receive: Receive) -> tuple[Headers, Any]:
        caller: Caller = await authenticate(scope, self._keys)
        generate = parse_generate(await read_json_body(scope, receive))
        desk = self._desk
        await self._check_balance(caller, generate)
        jobs = await drawn(desk.jobs, desk.underway, caller, generate.asks, receive, within_s=desk.wait_s)
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
        available = (await self._desk.database.read_soon(account_rows.balance_of, caller.account_id)).available
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
