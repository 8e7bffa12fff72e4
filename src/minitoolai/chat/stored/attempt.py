"""One attempt at a background response: prepare, generate, store, settle.

An attempt settles like a chat, for its output. When the server stops, or no engine has a free slot, it hands its job
back to the queue instead. A settle of an attempt that was handed back or superseded changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec

from minitoolai.accounts.keys import barred_error
from minitoolai.billing.charging import Bound, Reservation, interrupted
from minitoolai.billing.job_leases import MAX_FAILURES
from minitoolai.billing.shared import SharedServices
from minitoolai.chat.dialects.responses import ResponsesDialect, ResponsesTranslator, StoringAdapter, error_code
from minitoolai.chat.dialects.responses_request import complete_response
from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import ChatService
from minitoolai.chat.stored.items import references_in
from minitoolai.chat.stored.store import Json, ResponseStore
from minitoolai.core.clock import generation_name
from minitoolai.core.errors import (
    ClientLeft,
    EngineError,
    EngineFull,
    EngineRateLimited,
    EngineRefused,
    InsufficientBalance,
    Overloaded,
    RateLimited,
    ServiceError,
    StoreError,
    internal_error,
)
from minitoolai.core.inference import ChatRequest
from minitoolai.core.models import Caller, NewGeneration, Outcome
from minitoolai.http.bodies.bodies import run_in_body_thread
from minitoolai.http.streaming import run_and_charge
from minitoolai.http.validation import SMALL_BODY
from minitoolai.ledger.types import Requeue, Settle, Work
from minitoolai.storage.tables import accounts, responses
from minitoolai.storage.tables.jobs import ClaimedJob
from minitoolai.storage.tables.responses import QueuedResponse

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class ResponseServices:
    """Services that background responses and their attempts share."""

    chats: ChatService
    store: ResponseStore
    dialect: ResponsesDialect
    shared: SharedServices

    async def complete(self, caller: Caller, fields: Json, previous: str | None, references: list[str]) -> ChatRequest:
        """Read what a request refers to, and return its validated chat."""
        history = await self.store.history(caller, previous, references)
        # A conversation of many turns takes as long to check as a large body.
        if history.size > SMALL_BODY:
            return await run_in_body_thread(partial(complete_response, keeps=True), fields, history)
        return complete_response(fields, history, keeps=True)


class ResponseAttempt:
    """Run one attempt. `InFlight` ticks it; `stop` and `cancel` end it from outside."""

    def __init__(self, services: ResponseServices, job: ClaimedJob) -> None:
        self._services = services
        self.job = job
        self.hold_id = job.id
        self.chat: ChatRun | None = None
        self.is_cancelled = False
        #: The job is in the queue again, or in the hands of another attempt.
        self.is_over = False
        #: No engine had room: the model pauses.
        self.must_wait = False
        self._is_done = False

    @property
    def has_ended(self) -> bool:
        """Return True once its task has ended and its chat is settled. An engine's response may be read to its end."""
        return self._is_done and (self.chat is None or self.chat.is_finished)

    # ── from outside ──────────────────────────────────────────────────────────────────────────────────────

    def tick(self, now_s: float) -> None:
        """Enforce the timeouts of the chat. The worker renews the lease of the job."""
        if self.chat is not None and not self.chat.is_finished:
            self.chat.tick(now_s)

    def stop(self, reason: ServiceError) -> None:
        """End the attempt with an error. If the server is stopping, another process continues the job."""
        if self._services.shared.in_flight.draining:
            self.requeue("handed_back")
        if self.chat is not None:
            self.chat.stop(reason)

    def cancel(self) -> None:
        """End the attempt as if a client had disconnected: the output so far is charged."""
        self.is_cancelled = True
        if self.chat is not None:
            self.chat.stop(_cancelled())

    def supersede(self) -> None:
        """End the attempt, because another one has begun or the job has ended."""
        self.is_over = True
        if self.chat is not None:
            self.chat.stop(interrupted())

    def requeue(self, reason: Literal["failed", "handed_back"], code: str = "interrupted") -> None:
        """Queue the job again. The settle that follows is superseded."""
        if self.is_over:
            return
        self.is_over = True
        job, now_ms = self.job, self._services.shared.clock.now_ms()
        requeue = Requeue(job.id, job.account_id, job.attempt, now_ms, reason, MAX_FAILURES, code)
        self._services.shared.writer.submit(requeue, wait=False)

    # ── the attempt ───────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Run from the claim to the last commit."""
        try:
            await self._run()
        except asyncio.CancelledError:
            self.requeue("handed_back")
            raise
        except (StoreError, Overloaded) as error:
            log.warning("%s: handed back, because the database failed: %s", generation_name(self.job.id), error)
            self.must_wait = True
            self.requeue("handed_back")
        except Exception as bug:
            log.exception("%s failed", generation_name(self.job.id))
            self.requeue("failed", internal_error(bug).code)
        finally:
            self._is_done = True

    async def _run(self) -> None:
        services, job = self._services, self.job
        row = await services.shared.database.read_async(responses.find_queued, job.id)
        # The output of a response that expired in the queue could not be read.
        now_ms = services.shared.clock.now_ms()
        if row is None or row.cancelled_ms is not None or row.expires_ms <= now_ms or self.is_cancelled:
            await self._settle(Outcome("cancelled", error_code="cancelled"))
            return
        stored = await services.store.read_response(row.account_id, row.id, row.response)
        barred = await services.shared.database.read_async(accounts.barred_holds, [job.id])
        if barred:
            await self._fail(row, stored, barred_error(barred[job.id], "nothing was charged"))
            return
        try:
            chat = await self._prepare(row)
        except (Overloaded, RateLimited, EngineError) as error:
            if isinstance(error, EngineRefused):
                await self._fail(row, stored, error)
            else:
                self._hand_back(error)
            return
        except ServiceError as error:
            await self._fail(row, stored, error)
            return
        self.chat = chat
        chat.cancellation.arm()
        services.shared.in_flight.add(self)
        if self.is_cancelled or self.is_over:
            await chat.close(_cancelled())
            return
        adapter = BackgroundAdapter(self, chat, services.dialect.translator(chat), services.store, stored)
        await run_and_charge(adapter, adapter.read_whole)

    async def _prepare(self, row: QueuedResponse) -> ChatRun:
        """Return the run of the chat, with the hold that the job already has."""
        group = await self._services.shared.database.read_async(accounts.price_group_of, row.account_id)
        caller = Caller(row.account_id, row.key_id, price_group=group)
        request = await self._services.store.request_of(row.account_id, row.id, row.request)
        if request is None or request.fields is None:
            raise ServiceError("The stored request cannot be decrypted any more, because the server's secret changed.")
        fields = {"input": request.input, **request.fields}
        previous, references = fields.get("previous_response_id"), references_in(request.input)
        chat = await self._services.complete(caller, fields, previous, references)

        async def place(bound: Bound, generation: NewGeneration) -> Reservation:
            return self._reservation(row, bound, generation)

        return await self._services.chats.begin(caller, chat, place)

    def _reservation(self, row: QueuedResponse, bound: Bound, generation: NewGeneration) -> Reservation:
        """Return the hold of the job, with the units that it pays for now: prices and prompt may have changed."""
        units = min(bound.units, (row.amount - bound.base) // bound.unit) if bound.unit else bound.units
        if units < bound.least_units:
            needed = bound.base + bound.least_units * bound.unit
            raise InsufficientBalance(
                "The amount that was held for this response no longer pays for it. Send the request again.",
                needed=needed,
                available=row.amount,
            )
        work = Work(row.key_id, row.model, row.created_ms)
        return Reservation(
            row.id, row.account_id, row.amount, units, generation.price_input, generation.price_output,
            "chat", generation.model, generation.engine, work=work, attempt=self.job.attempt,
        )  # fmt: skip

    # ── ends without a chat ───────────────────────────────────────────────────────────────────────────────

    def _hand_back(self, error: ServiceError) -> None:
        log.info("%s: no engine for model %s now (%s)", generation_name(self.job.id), self.job.model, error.code)
        self.must_wait = True
        self.requeue("handed_back")

    async def _fail(self, row: QueuedResponse, stored: Json | None, error: ServiceError) -> None:
        """Fail the job before anything was generated, and release its hold."""
        await self.save_failure(stored, error)
        await self._settle(Outcome("failed", error_code=error.code))

    async def _settle(self, outcome: Outcome) -> None:
        job, shared = self.job, self._services.shared
        now_ms = shared.clock.now_ms()
        future = shared.writer.submit(Settle(job.id, job.account_id, 0, now_ms, outcome, job.attempt))
        assert future is not None
        shared.charging.meters.ended(
            "chat", job.model, job.id, outcome, 0, now_ms, future, began_ms=job.created_ms, is_fault=False
        )
        self.is_over = True
        await asyncio.shield(future)

    async def save_failure(self, stored: Json | None, error: ServiceError) -> None:
        """Store why the attempt failed. It comes before the settle, so a failed response always has its reason.

        Without it, the response has only the code of its generation.
        """
        if stored is None:
            return
        job, error = self.job, self._services.dialect.map_error(error)
        failed = stored | {"status": "failed", "error": {"code": error_code(error), "message": error.message}}
        await self._services.store.save(job.account_id, job.id, job.attempt, _encode(failed))


class BackgroundAdapter(StoringAdapter):
    """Run that stores its output before its charge: a charged response must never lack its output."""

    def __init__(
        self,
        attempt: ResponseAttempt,
        run: ChatRun,
        translator: ResponsesTranslator,
        store: ResponseStore,
        queued: Json | None,
    ) -> None:
        """`queued` is the object of the queued response."""
        super().__init__(run, translator, store)
        self._attempt = attempt
        self._queued = queued
        self._is_saved = False

    async def charge(self, *, within_s: float) -> None:
        job = self._attempt.job
        body = await self.response()
        async with asyncio.timeout(within_s):
            self._is_saved = await self.store.save(job.account_id, job.id, job.attempt, body)
        if not self._is_saved:
            raise interrupted() if not self._attempt.is_cancelled else _cancelled()
        await self.run.charge(within_s=within_s)

    async def close(self, error: ServiceError | None = None) -> None:
        is_full = isinstance(error, EngineFull) or (isinstance(error, EngineRateLimited) and not error.is_size)
        if is_full and not self.run.is_finished:
            # No client is waiting, so wait until the engine has a free slot.
            self._attempt.must_wait = True
            self._attempt.requeue("handed_back")
        elif error is not None and self._body and not self._is_saved and not self._attempt.is_cancelled:
            # The database did not take the output, so it must not be charged.
            self._attempt.requeue("failed", error.code)
        elif error is not None and not (self.run.is_finished or self._attempt.is_over or isinstance(error, ClientLeft)):
            try:
                await self._attempt.save_failure(self._queued, error)
            except (StoreError, Overloaded) as cause:
                log.warning("%s: why it failed could not be stored: %s", self.run.name, cause)
        await super().close(error)


def _cancelled() -> ClientLeft:
    return ClientLeft("The response was cancelled.")
