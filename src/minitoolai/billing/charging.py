"""Charge for requests: hold the most that a request may cost, then settle its cost.

The first part computes prices, the second reserves and settles through the ledger. All amounts are nano-dollars.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from minitoolai.accounts.keys import check_model
from minitoolai.accounts.rate_limits import Limits, UsageReservation
from minitoolai.core.catalog.catalog import ChatModel
from minitoolai.core.catalog.prices import to_nano
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import (
    AccessDenied,
    AlreadySettled,
    BudgetExceeded,
    ClientLeft,
    CommitInDoubt,
    IdempotencyInFlight,
    InsufficientBalance,
    Overloaded,
    RateLimited,
    ServiceError,
    StoreError,
)
from minitoolai.core.inference import ChatRequest
from minitoolai.core.models import (
    AnswerRecorder,
    Caller,
    GenerationState,
    IdempotencyClaim,
    NewGeneration,
    Outcome,
    ServingModel,
)
from minitoolai.core.money import short_dollars
from minitoolai.core.telemetry.logs import SummedLog
from minitoolai.core.telemetry.meters import Meters
from minitoolai.core.telemetry.tracing import Spans
from minitoolai.ledger.types import (
    Checkpoint,
    ClaimAnswer,
    DuplicateRequest,
    Held,
    InsufficientFunds,
    OverBudget,
    PlaceHold,
    QueueFull,
    Result,
    Settle,
    Settled,
    Superseded,
    UnknownAccountOrHold,
    Work,
)
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

# ── prices: from a request to the most it may cost, and from usage to its cost ─────────────────────────────────────

#: Most tokens that a chat template may add per message and per prompt. The templates in use need 3 to 8.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_PROMPT = 64
#: Refuse with 402 if the balance pays for fewer output tokens: a shorter response is of no use.
MIN_OUTPUT_TOKENS = 16


class Bound(msgspec.Struct, frozen=True):
    """The most that a request may cost: `base` plus `unit` for each of `units` output tokens."""

    base: int
    unit: int
    units: int
    least_units: int
    #: Tokens of prompt and response together. Used by token rate limits, not for money.
    tokens: int = 0


def prompt_bound(request: ChatRequest, model: ChatModel) -> int:
    """Return the most tokens that the prompt can have.

    Needs no tokenizer: a token is never shorter than a byte.
    """
    bound = request.text_bytes + request.other_bytes + TOKENS_PER_MESSAGE * len(request.messages) + TOKENS_PER_PROMPT
    for detail in request.images:
        bound += image_token_bound(model, detail)
    return bound


def image_token_bound(model: ChatModel, detail: str) -> int:
    """Return the most tokens that one image can have. Independent of the size of its data URL."""
    if model.image_tokens is None:
        return 0
    return model.image_tokens.low if detail == "low" else model.image_tokens.high


def chat_bound(model: ChatModel, *, prompt_tokens: int, limit: int, choices: int) -> Bound:
    """Return the bound for one chat request, with every token in its most expensive bucket. Zero if it is free."""
    prices = model.prices
    per_input, per_output, fee = prices.most(prompt_tokens)
    base = to_nano(prompt_tokens * per_input + fee)
    unit = choices * to_nano(per_output)
    tokens = prompt_tokens + limit * choices
    return Bound(base, unit, limit, min(limit, MIN_OUTPUT_TOKENS), tokens)


def dearest(bounds: Sequence[Bound]) -> Bound:
    """Return a bound that pays for any one of several requests, of which only one will be charged."""
    return Bound(*(max(values) for values in zip(*map(msgspec.structs.astuple, bounds), strict=True)))


def speech_bound(price: int, characters: int) -> Bound:
    """Return the bound for speaking a whole text."""
    return Bound(characters * price, 0, 0, 0)


def transcription_bound(price: int, seconds: int) -> Bound:
    """Return the bound for transcribing a whole recording."""
    return Bound(seconds * price, 0, 0, 0)


def image_job_bound(price: int) -> Bound:
    """Return the bound for one image: its price."""
    return Bound(price, 0, 0, 0)


# ── holds: reserve, renew, settle ──────────────────────────────────────────────────────────────────────────────────

#: Recover a hold if its lease has not been renewed for this long.
LEASE_MS = 10_000
#: How a caller can make a request cheaper, by the kind of generation. The end of a refusal.
_CHEAPER = {
    "chat": ", or lower max_completion_tokens",
    "speech": ", or send a shorter text",
    "transcription": ", or send a shorter recording",
}


class Reservation(msgspec.Struct, frozen=True):
    """Money held for one generation. `units` are the granted output tokens.

    `price_*` are the prices per unit at reservation in nano-dollars, rounded up. A chat is charged by its run's
    `Prices`.
    """

    hold_id: int
    account_id: int
    amount: int
    units: int
    price_input: int
    price_output: int
    kind: str
    model: str
    #: The engine that was chosen first.
    engine: str = ""
    #: Reserved from the rate limits of its account and key.
    limit_usage: UsageReservation | None = None
    work: Work | None = None
    #: Of a job: the attempt that settles it. The job's lease takes the place of the hold's.
    attempt: int | None = None
    #: Idempotency-Key that was claimed with the hold: the charge stores its answer.
    claim: IdempotencyClaim | None = None

    @property
    def recorder(self) -> AnswerRecorder | None:
        """Return what takes the response before it is charged, if the request has an Idempotency-Key."""
        return None if self.claim is None else self.claim.recorder

    def for_model(self, serving: ServingModel, units: int) -> Reservation:
        """Return the reservation for another model that it pays for, with this many units of output."""
        return msgspec.structs.replace(self, **serving._asdict(), units=units)


#: Log line for requests that were refused before they had a generation.
REFUSALS = "refused requests for model %s at %s (%s): %d in the last minute"


class Charging:
    """Reserve, renew and settle holds. One instance per process."""

    def __init__(
        self,
        writer: Writer,
        clock: Clock,
        limits: Limits | None = None,
        meters: Meters | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.meters = meters or Meters()
        self._spans = spans
        self._writer = writer
        self._clock = clock
        self._limits = limits
        writer.on_late = self._settled_late
        self.refusals = SummedLog(log, logging.WARNING, REFUSALS)

    async def reserve(
        self,
        caller: Caller,
        bound: Bound,
        generation: NewGeneration,
        *,
        hold_id: int | None = None,
        queue_limit: int | None = None,
    ) -> Reservation:
        """Hold the bound and insert the generation's row, in one commit. A queued job needs no lease.

        Raises KeyForbids, BudgetExceeded, InsufficientBalance if the balance is too low, RateLimited if a rate limit is
        reached or `queue_limit` jobs of the account are queued, Overloaded if the ledger cannot be written.
        """
        limits, spans = self._limits, self._spans
        is_job, limit_usage = queue_limit is not None, None
        span = None if spans is None else spans.start_hold(generation, is_job=is_job)
        try:
            check_model(caller, generation.model)
            if limits is not None and limits.applies_to(caller):
                dollars = bound.base + bound.unit * bound.units
                if limits.shared is not None:
                    await limits.prepare_work(caller, tokens=bound.tokens, dollars=dollars)
                limit_usage = limits.reserve(caller, tokens=bound.tokens, dollars=dollars)
            reservation = await self._hold(caller, bound, generation, hold_id, queue_limit)
        except BaseException as error:
            if limits is not None and limit_usage is not None:
                limits.release(limit_usage, tokens=0, dollars=0)
            if spans is not None and span is not None:
                spans.end_hold(span, error)
            raise
        if spans is not None and span is not None:
            spans.hold_placed(span, reservation.hold_id, reservation.amount, generation, is_job=is_job)
        if limits is None or limit_usage is None:
            return reservation
        if is_job:
            # A worker runs the job later, at most at this cost, and it is not an in-flight response of this process.
            limits.release(limit_usage, tokens=bound.tokens, dollars=reservation.amount)
            return reservation
        return msgspec.structs.replace(reservation, limit_usage=limit_usage)

    async def _hold(
        self, caller: Caller, bound: Bound, generation: NewGeneration, hold_id: int | None, queue_limit: int | None
    ) -> Reservation:
        now_ms, hold_id = self._clock.now_ms(), hold_id or self._clock.new_id()
        claim = None if caller.claim is None else _claim_once(caller.claim, hold_id)
        hold = PlaceHold(
            hold_id=hold_id,
            account_id=caller.account_id,
            key_id=caller.key_id,
            kind=generation.kind,
            base=bound.base,
            unit=bound.unit,
            units=bound.units,
            least_units=bound.least_units,
            lease_until_ms=self._clock.lease_ms() + LEASE_MS if queue_limit is None else None,
            now_ms=now_ms,
            generation=generation,
            claim=claim,
            queue_limit=queue_limit,
            budget=caller.rules.budget(caller.rotation_group) if caller.rules is not None else None,
            team_budget=caller.team_budget,
        )
        future = self._writer.submit(hold)
        assert future is not None
        try:
            result = await future
        except StoreError as error:
            if isinstance(error, CommitInDoubt):
                self._release(hold)
            raise Overloaded(
                "The ledger cannot be written at the moment. Nothing was charged; try again.", retry_after_s=5
            ) from error
        except asyncio.CancelledError:
            # The caller is gone, but the hold may still be committed. Queue its release behind it.
            self._release(hold)
            raise
        if not isinstance(result, Held):
            if claim is not None:
                claim.hold_id = claim.answer = None
            raise _error_for(result, generation.kind)
        return Reservation(
            hold.hold_id,
            caller.account_id,
            result.amount,
            result.units,
            generation.price_input,
            generation.price_output,
            generation.kind,
            generation.model,
            generation.engine,
            work=Work(caller.key_id, generation.model, now_ms),
            claim=claim,
        )

    def settle(
        self,
        reservation: Reservation,
        cost: int,
        outcome: Outcome,
        *,
        error: ServiceError | None = None,
        is_last: bool = False,
    ) -> asyncio.Future[Result] | None:
        """Queue the charge. Await the returned future to know that it is durable.

        Synchronous, so that it can run in a `finally`. `error` ended the generation. `is_last`: no other response is in
        flight, so the writer need not wait to group this charge with others (group commit).
        """
        if reservation.limit_usage is not None and self._limits is not None:
            tokens = outcome.input_units + outcome.output_units if reservation.limit_usage.tokens else 0
            self._limits.release(reservation.limit_usage, tokens=tokens, dollars=cost)
        now_ms = self._clock.now_ms()
        settle = Settle(
            reservation.hold_id,
            reservation.account_id,
            cost,
            now_ms,
            outcome,
            reservation.attempt,
            reservation.work,
            None if reservation.claim is None else _answer_of(reservation.claim),
        )
        if self._spans is not None:
            charge = self._traced_settle(self._spans, settle, is_last=is_last)
        else:
            charge = self._writer.submit(settle, is_last=is_last)
        self.meters.ended(
            reservation.kind,
            reservation.model,
            reservation.hold_id,
            outcome,
            cost,
            now_ms,
            charge,
            engine=reservation.engine,
            is_fault=error is None or error.is_fault,
        )
        return charge

    def _settled_late(self, operation: Settle, result: Result) -> None:
        self.meters.settled_late(operation.hold_id, result)

    def _traced_settle(self, spans: Spans, settle: Settle, *, is_last: bool) -> asyncio.Future[Result] | None:
        span = spans.start_settle(settle.hold_id, settle.cost, settle.outcome)
        charge = self._writer.submit(settle, is_last=is_last)
        if span is not None:
            spans.end_settle(span, charge)
        return charge

    def count_refusal(self, engine: str, model: str, error: ServiceError) -> None:
        """Count and log a request that was refused before it began, although neither it nor its caller is at fault."""
        self.meters.refused(engine, model)
        self.refusals.add(model, engine, error.code)

    def keep_alive(
        self,
        reservation: Reservation,
        progress: int,
        on_lost: Callable[[ServiceError], None] | None = None,
        serving: ServingModel | None = None,
    ) -> None:
        """Record the cost so far and renew the lease in the next commit.

        `serving` is the model that the cost is for, if it is not the first of the request.

        `on_lost` is called with an error for the caller if the hold is no longer pending: this process was paused
        longer than its lease, and another process recovered the hold. The work must then stop, because it can no longer
        be charged. Does nothing for a job, whose worker renews the job's lease.
        """
        if reservation.attempt is not None:
            return
        lease_until_ms = self._clock.lease_ms() + LEASE_MS
        checkpoint = Checkpoint(reservation.hold_id, reservation.account_id, progress, lease_until_ms, serving)
        if on_lost is None:
            self._writer.submit(checkpoint, wait=False)
        else:
            self._writer.renew(checkpoint, lambda result: _report_lost_hold(reservation, result, on_lost))

    def _release(self, hold: PlaceHold) -> None:
        """Queue the release of a hold after its caller has disconnected."""
        outcome, now_ms, generation = Outcome("cancelled", error_code="client_left"), hold.now_ms, hold.generation
        release = self._writer.submit(Settle(hold.hold_id, hold.account_id, 0, self._clock.now_ms(), outcome))
        self.meters.ended(
            hold.kind,
            generation.model,
            hold.hold_id,
            outcome,
            0,
            now_ms,
            release,
            engine=generation.engine,
            began_ms=now_ms,
        )


async def wait_until_durable(charge: asyncio.Future[Result], *, within_s: float) -> None:
    """Wait until the charge is durable. Raises TimeoutError after `within_s` seconds, StoreError if it failed.

    A hold that the ledger does not know paid for nothing, and a hold settled earlier with another cost or outcome was
    not charged for this work. Neither may look like a successful charge.
    """
    # A timer on the future costs a third of asyncio.timeout, and every request waits here.
    timer = charge.get_loop().call_later(within_s, _time_out, charge)
    try:
        result = await charge
    finally:
        timer.cancel()
    if isinstance(result, Settled):
        if result.differs:
            raise AlreadySettled(f"the hold was already settled with cost {result.cost} and another outcome")
    elif isinstance(result, Superseded):
        raise AlreadySettled("another attempt at this job has begun")
    elif isinstance(result, UnknownAccountOrHold):
        raise StoreError("the ledger has no hold for this charge; nothing was charged")


def _time_out(charge: asyncio.Future[Result]) -> None:
    if not charge.done():
        charge.set_exception(TimeoutError("the charge was not written in time"))


def _report_lost_hold(reservation: Reservation, result: Result, on_lost: Callable[[ServiceError], None]) -> None:
    # The failure of the response is logged when it ends.
    log.info("%s: the hold was settled elsewhere or is missing (%s)", generation_name(reservation.hold_id), result)
    on_lost(interrupted())


def interrupted() -> ServiceError:
    """Return the error for a caller with a hold that was recovered while the work continued."""
    return ServiceError(
        "The charge for this response was recorded while the server was paused, and the response is incomplete. "
        "Send the request again.",
        code="interrupted",
    )


def state_after(error: ServiceError | None) -> GenerationState:
    """Return the final state of a generation that ended with this error, or with none."""
    if error is None:
        return "succeeded"
    return "cancelled" if isinstance(error, ClientLeft) else "failed"


def charged_cost(result: Result) -> int:
    """Return the cost that a settle charged, 0 if it failed."""
    return result.cost if isinstance(result, Settled) else 0


def _claim_once(claim: IdempotencyClaim, hold_id: int) -> IdempotencyClaim | None:
    """Claim the Idempotency-Key with the first hold of a request. Return None for its later holds."""
    if claim.hold_id is not None:
        return None
    claim.hold_id = hold_id
    return claim


def _answer_of(claim: IdempotencyClaim) -> ClaimAnswer | None:
    """Return what a charge stores under the Idempotency-Key, or None if the response is not known yet."""
    return None if claim.answer is None else ClaimAnswer(claim.id, claim.answer)


def already_in_flight() -> IdempotencyInFlight:
    """Return the error for an Idempotency-Key that another in-flight request uses."""
    return IdempotencyInFlight(
        "A request with this Idempotency-Key is still in progress. Retry to get its response.",
        param="Idempotency-Key",
        retry_after_s=1,
    )


def _error_for(result: Result, kind: str) -> ServiceError:
    """Return the error for the caller of a refused hold."""
    match result:
        case InsufficientFunds():
            return _cannot_pay(result, kind)
        case OverBudget():
            return _over_budget(result, kind)
        case DuplicateRequest():
            return already_in_flight()
        case QueueFull():
            return RateLimited(
                f"This account already has {result.queued} queued jobs, which is its limit. Wait until some finish.",
                retry_after_s=5,
            )
    return AccessDenied("The account of this API key no longer exists.")


def _over_budget(over: OverBudget, kind: str) -> BudgetExceeded:
    when = {"day": "today (UTC)", "month": "this month (UTC)", "total": "in total"}[over.period]
    if over.is_team:
        return BudgetExceeded(
            f"Member budget exceeded: this request needs at least ${short_dollars(over.needed)}, but the member to whom"
            f" this key belongs may spend only ${short_dollars(max(0, over.left))} more {when}. Ask an owner or admin"
            f" of the account to raise the budget{_CHEAPER.get(kind, '')}.",
            needed=over.needed,
            left=over.left,
        )
    return BudgetExceeded(
        f"API key budget exceeded: this request needs at least ${short_dollars(over.needed)}, but this key may spend"
        f" only ${short_dollars(max(0, over.left))} more {when}. Raise the key's budget{_CHEAPER.get(kind, '')}.",
        needed=over.needed,
        left=over.left,
    )


def _cannot_pay(refused: InsufficientFunds, kind: str) -> InsufficientBalance:
    window = ""
    if refused.window is not None:
        span = {"5h": "these five hours", "week": "this week", "month": "this month"}[refused.window.kind]
        ends = datetime.fromtimestamp(refused.window.ends_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M")
        window = f" The plan's credit for {span} is used up until {ends} UTC."
    return InsufficientBalance(
        f"Insufficient balance: this request needs at least ${short_dollars(refused.needed)}, but only "
        f"${short_dollars(max(0, refused.available))} is available. Top up{_CHEAPER.get(kind, '')}.{window}",
        needed=refused.needed,
        available=refused.available,
    )
