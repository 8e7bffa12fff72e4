"""Generate responses in the background: accept, claim, run, cancel, recover.

A background response is a job, as an image is: its hold and its place in the queue are one commit, a worker claims it
under a lease, and every result names its attempt (storage/tables/jobs.py, billing/job_leases.py). A process that dies
at any moment leaves a lease that expires; the job is then queued again, and fails after MAX_LOSSES of these.

The order of commits makes the charge exact. The row with the request is written before the hold, so no job lacks its
request; a crash in between leaves a row that retention deletes. The output is stored before the settle, so no charged
response lacks its output; after a crash in between, the next attempt replaces it. The settle names the attempt, so the
hold is captured once.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import msgspec

from minitoolai.billing.charging import Bound, Reservation
from minitoolai.billing.job_leases import LEASE_MS, RENEW_EVERY_S, SWEEP_EVERY_S, JobLeases
from minitoolai.billing.shared import SharedServices
from minitoolai.chat.dialects.responses import ResponsesDialect
from minitoolai.chat.dialects.responses_request import PendingResponse
from minitoolai.chat.dialects.responses_stream import response_object
from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import ChatService
from minitoolai.chat.stored.attempt import ResponseAttempt, ResponseServices
from minitoolai.chat.stored.items import parse_response_name, response_name
from minitoolai.chat.stored.store import MB, Json, ResponseStore
from minitoolai.chat.stored.vault import StoredRequest
from minitoolai.core.backoff import Backoff
from minitoolai.core.clock import created_ms, generation_name, random_text
from minitoolai.core.errors import InvalidRequest, Overloaded, ServiceError, SettingsError, StoreError
from minitoolai.core.inference import ChatRequest
from minitoolai.core.models import Caller, NewGeneration, Outcome
from minitoolai.http.asgi import JSON, whole_headers
from minitoolai.ledger.types import Settle
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import jobs, responses
from minitoolai.storage.tables.jobs import ClaimedJob, LeaseRenewal
from minitoolai.storage.tables.responses import StoredRow

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

#: Background responses that one process generates at the same time.
MAX_RUNNING = 8
#: Jobs that are considered from the head of the queue, because those of some models may have to wait.
MAX_WAITING = 256
#: Poll the queue this often without a notification.
POLL_EVERY_S = 1.0
#: Bounds of the exponential backoff of a model without a free engine.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
#: A row without a hold is given up after this time.
ORPHAN_MS = 3_600_000
#: OpenAI's own limit. Also, a generation stays in the database at least this long (MINITOOLAI_ARCHIVE_AFTER_MONTHS).
LONGEST_RETENTION_HOURS = 720


class BackgroundResponses:
    """The background responses of one process: accept them, run those of the queue, cancel them."""

    def __init__(self, services: ResponseServices, *, queue_limit: int) -> None:
        """`queue_limit`: queued jobs of one account, images among them."""
        shared = services.shared
        self.store = services.store
        self.dialect = services.dialect
        self._services = services
        self._shared = shared
        self._queue_limit = queue_limit
        self._name = f"responses:{random_text(10)}"
        self._leases = JobLeases(
            "chat", shared.database, shared.writer, shared.clock, shared.charging.meters,
            responses.expired_leases, responses.waiting_since,
        )  # fmt: skip
        self._attempts: dict[int, ResponseAttempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming = False
        self._queued = asyncio.Event()
        #: Pauses of models without a free engine.
        self._pauses: dict[str, Backoff] = {}

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────

    async def complete(self, caller: Caller, pending: PendingResponse) -> ChatRequest:
        """Read what a request refers to, and return its validated chat."""
        return await self._services.complete(caller, pending.fields, pending.previous, pending.references)

    async def submit(self, caller: Caller, request: ChatRequest) -> tuple[ChatRun, bytes]:
        """Queue a response: hold its cost and take its place in the queue, in one commit.

        Returns a run that will not be run, and the object of the queued response. Raises what `ChatService.begin` does,
        and RateLimited if the account's queue is full.
        """
        number, account_id, echo = self._shared.clock.new_id(), caller.account_id, request.form
        fields = {name: value for name, value in echo.fields.items() if name != "input"}
        body = _encode(
            response_object(
                response_name(number),
                echo,
                created_s=created_ms(number) // 1000,
                model=request.model,
                status="queued",
                output=[],
            )
        )
        previous = fields.get("previous_response_id")
        row = await self.store.seal(
            account_id, number, request.model, StoredRequest(echo.fields["input"], fields), body,
            None if previous is None else parse_response_name(previous), is_background=True,
        )  # fmt: skip

        async def place(bound: Bound, generation: NewGeneration) -> Reservation:
            generation = msgspec.structs.replace(generation, state="queued")
            await self._insert(row)
            claim = caller.claim
            if claim is not None and claim.recorder is not None:
                # One that turns out differently, because fewer tokens are granted, is stored again.
                headers = [JSON, (b"x-generation-id", generation_name(number).encode())]
                await claim.recorder.announce(whole_headers(headers, body), body)
            try:
                return await self._shared.charging.reserve(
                    caller, bound, generation, hold_id=number, queue_limit=self._queue_limit
                )
            except ServiceError:
                await self.store.discard(account_id, number)
                raise

        run = await self._services.chats.begin(caller, request, place)
        self.notify()
        return run, body

    async def _insert(self, row: responses.NewResponse) -> None:
        try:
            await self.store.submit(row)
        except StoreError as error:
            raise Overloaded(
                "The response could not be queued. Nothing was charged; try again.", retry_after_s=5
            ) from error

    async def cancel(self, caller: Caller, name: str) -> Json:
        """Cancel a background response, and return it. One that has ended does not change.

        The output so far is charged, as for a client that disconnects. Raises NotFound, and InvalidRequest for
        a response that is not in the background.
        """
        row = await self.store.find(caller, name)
        if not row.is_background:
            raise InvalidRequest(
                f"{name} cannot be cancelled: only responses made with background set to true can be. To end another "
                "one, close its connection.",
                param="response_id",
            )
        if row.is_unfinished:
            await self._cancel(row)
        return await self.store.response(await self.store.find(caller, name))

    async def _cancel(self, row: StoredRow) -> None:
        now_ms = self._shared.clock.now_ms()
        await self._shared.writer.run(lambda c: responses.mark_cancelled(c, row.id, row.account_id, now_ms))
        attempt = self._attempts.get(row.id)
        if attempt is not None:
            attempt.cancel()
            return
        # A process that claims or runs it sees the mark: at the claim, or when it renews the lease.
        found = await self._shared.database.read_async(responses.find, row.id, row.account_id, now_ms)
        if found is None or found.state != "queued":
            return
        outcome = Outcome("cancelled", error_code="cancelled")
        future = self._shared.writer.submit(Settle(row.id, row.account_id, 0, now_ms, outcome))
        assert future is not None
        self._shared.charging.meters.ended("chat", row.model, row.id, outcome, 0, now_ms, future, is_fault=False)
        try:
            await future
        except StoreError as error:
            raise Overloaded("The response could not be cancelled. Try again.", retry_after_s=5) from error

    async def delete(self, caller: Caller, name: str) -> None:
        """Delete a stored response. One that is in progress is cancelled first. Raises NotFound."""
        row = await self.store.find(caller, name)
        if row.is_background and row.is_unfinished:
            await self._cancel(row)
        await self.store.delete(caller, name)

    # ── the worker ────────────────────────────────────────────────────────────────────────────────────────

    def notify(self) -> None:
        """Wake the worker: a response was queued, or there is room for one."""
        self._queued.set()

    async def run(self) -> None:
        """Run queued responses until cancelled. Database errors are logged and retried."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claim_forever())
            group.create_task(self._renew_forever())
            group.create_task(self._sweep_forever())

    async def drain(self, timeout_s: float) -> int:
        """Stop claiming, and wait for running responses. `InFlight.drain` hands back those that take too long."""
        clock = self._shared.clock
        give_up_s = clock.steady_s() + timeout_s
        while (self._attempts or self._claiming) and clock.steady_s() < give_up_s + 1:
            for attempt in list(self._attempts.values()):
                if attempt.chat is None and clock.steady_s() >= give_up_s:
                    attempt.requeue("handed_back")
            self._forget_ended()
            await asyncio.sleep(0.05)
        return len(self._attempts)

    async def recover(self, *, include_unexpired: bool = False) -> int:
        """Queue the responses of processes that have died again, and return their number."""
        recovered = await self._leases.recover(self._attempts, include_unexpired=include_unexpired)
        if recovered:
            self.notify()
        return recovered

    async def _claim_forever(self) -> None:
        while True:
            self._queued.clear()
            try:
                await self._claim_some()
            except (StoreError, Overloaded) as error:
                log.warning("claiming background responses failed, will retry: %s", error)
            except Exception:
                log.exception("claiming background responses failed unexpectedly, will retry")
            try:
                async with asyncio.timeout(POLL_EVERY_S):
                    await self._queued.wait()
            except TimeoutError:
                continue

    async def _claim_some(self) -> None:
        """Claim and start as many responses as there is room for."""
        shared, free = self._shared, MAX_RUNNING - len(self._attempts)
        if shared.in_flight.draining or free <= 0:
            return
        waiting = await shared.database.read_async(responses.waiting, MAX_WAITING)
        ids = [number for number, model in waiting if self._is_due(model)][:free]
        if not ids:
            return
        now_ms = shared.clock.lease_ms()

        def change(connection: Connection) -> list[ClaimedJob]:
            return jobs.claim(connection, ids, worker=self._name, now_ms=now_ms, lease_ms=LEASE_MS)

        self._claiming = True
        try:
            for job in await shared.writer.run(change):
                attempt = self._attempts[job.id] = ResponseAttempt(self._services, job)
                task = asyncio.create_task(attempt.run())
                self._tasks.add(task)
                task.add_done_callback(self._on_task_end)
        finally:
            self._claiming = False

    def _is_due(self, model: str) -> bool:
        pause = self._pauses.get(model)
        return pause is None or pause.is_due()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._forget_ended()

    def _forget_ended(self) -> None:
        """Forget attempts that have ended. One whose client cancelled it may still be read to its end."""
        ended = [attempt for attempt in self._attempts.values() if attempt.has_ended]
        for attempt in ended:
            del self._attempts[attempt.job.id]
            self._shared.in_flight.discard(attempt)
            model = attempt.job.model
            if attempt.must_wait:
                steady_s = self._shared.clock.steady_s
                self._pauses.setdefault(model, Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, clock=steady_s)).record_failure()
            else:
                self._pauses.pop(model, None)
        if ended:
            self.notify()

    async def _renew_forever(self) -> None:
        """Renew all leases in one commit, and end the attempts that were cancelled, deleted or superseded."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            self._forget_ended()
            if not self._attempts:
                continue
            try:
                await self._renew(dict(self._attempts))
            except (StoreError, Overloaded) as error:
                log.warning("renewing %d leases failed, will retry: %s", len(self._attempts), error)
            except Exception:
                log.exception("renewing leases failed unexpectedly, will retry")

    async def _renew(self, attempts: dict[int, ResponseAttempt]) -> None:
        lost = await self._leases.renew([LeaseRenewal(number, one.job.attempt, 0) for number, one in attempts.items()])
        unwanted = await self._shared.database.read_async(responses.unwanted, list(attempts))
        for number, attempt in attempts.items():
            if self._attempts.get(number) is not attempt:
                continue
            if number in lost:
                attempt.supersede()
            elif number in unwanted and not attempt.is_cancelled:
                attempt.cancel()

    async def _sweep_forever(self) -> None:
        while True:
            try:
                await self.recover()
                await self._leases.fail_waiting()
                await self._leases.fail_barred()
                before_ms = self._shared.clock.now_ms() - ORPHAN_MS
                await self._shared.writer.run(partial(responses.close_ended, before_ms=before_ms))
            except (StoreError, Overloaded) as error:
                log.warning("the sweep for background responses failed, will retry: %s", error)
            except Exception:
                log.exception("the sweep for background responses failed unexpectedly, will retry")
            await asyncio.sleep(SWEEP_EVERY_S)


def build(settings: Settings, shared: SharedServices, chats: ChatService) -> BackgroundResponses:
    """Return the stored responses of one process, not yet started. Raises SettingsError."""
    hours = settings.response_retention_hours
    if hours > LONGEST_RETENTION_HOURS:
        raise SettingsError(f"MINITOOLAI_RESPONSE_RETENTION_HOURS must be at most {LONGEST_RETENTION_HOURS}")
    store = ResponseStore(
        shared.database,
        shared.writer,
        shared.clock,
        shared.secret_key,
        retention_hours=hours,
        most_bytes=settings.response_store_mb * MB,
    )
    dialect = ResponsesDialect(shared.clock, store)
    return BackgroundResponses(ResponseServices(chats, store, dialect, shared), queue_limit=settings.image_queue)
