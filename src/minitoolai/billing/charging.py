"""Joins prices and money: what a request may cost becomes a hold, what it did cost becomes a charge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from minitoolai.accounts.keys import check_model
from minitoolai.accounts.rate_limits import Limits, UsageReservation
from minitoolai.core.catalog import ChatModel
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.counting import estimate_tokens
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
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.meters import Meters
from minitoolai.core.models import Caller, GenerationState, IdempotencyClaim, NewGeneration, Outcome
from minitoolai.core.money import format_dollars
from minitoolai.core.tracing import Spans
from minitoolai.ledger.types import (
    Checkpoint,
    DuplicateRequest,
    Held,
    InsufficientFunds,
    OverBudget,
    PlaceHold,
    QueueFull,
    Result,
    Settle,
    Settled,
    UnknownAccountOrHold,
)
from minitoolai.storage.writer import Writer

# (merged from pricing) Pure arithmetic of prices: a request to the upper bound of its cost, usage to its cost. Nano-dollars throughout.

#: Tokens a chat template may add around one message, and around all of them. The templates in use need 3 to 8.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_PROMPT = 64
#: What a template usually adds around a message.
LIKELY_TOKENS_PER_MESSAGE = 4
#: Below this many output tokens an answer is no answer: 402 instead.
LEAST_OUTPUT_TOKENS = 16


class Bound(msgspec.Struct, frozen=True):
    """What a request may cost at most: `base` plus `unit` for each of `units` output tokens."""

    base: int
    unit: int
    units: int
    least_units: int
    #: Tokens of prompt and answer together, for limits; no money.
    tokens: int = 0


def prompt_bound(request: ChatRequest, model: ChatModel) -> int:
    """Tokens the prompt can count at most, without a tokenizer: no token is shorter than a byte."""
    bound = request.text_bytes + TOKENS_PER_MESSAGE * len(request.messages) + TOKENS_PER_PROMPT
    for detail in request.images:
        bound += image_bound(model, detail)
    return bound


def prompt_estimate(request: ChatRequest, model: ChatModel) -> int:
    """Return the likely tokens of a prompt that no engine counted: what the bound counts, but never its largest.

    A picture counts the least that one of this model can, since the most would charge for a small one many times over.
    """
    given = request.prompt if request.embed is None else request.embed
    tokens = _tokens_given(given) if isinstance(given, list) else 0
    images = sum(min(image_bound(model, "low"), image_bound(model, detail)) for detail in request.images)
    text = estimate_tokens(request.text_bytes - tokens) + LIKELY_TOKENS_PER_MESSAGE * len(request.messages)
    return max(1, tokens + text + images)


def _tokens_given(given: list[Any]) -> int:
    """Count the tokens in a list of texts and tokens, or of lists of tokens."""
    return sum(_tokens_given(item) if isinstance(item, list) else isinstance(item, int) for item in given)


def image_bound(model: ChatModel, detail: str) -> int:
    """Tokens one picture can count at most; never the bytes of its data URL."""
    if model.image_tokens is None:
        return 0
    return model.image_tokens.low if detail == "low" else model.image_tokens.high


def chat_bound(model: ChatModel, *, prompt_tokens: int, limit: int, choices: int) -> Bound:
    """The hold for one chat request. It is never nothing, even where a model is free."""
    base = max(1, prompt_tokens * model.price_input)
    tokens = prompt_tokens + limit * choices
    return Bound(base, choices * model.price_output, limit, min(limit, LEAST_OUTPUT_TOKENS), tokens)


def speech_bound(price: int, characters: int) -> Bound:
    """The hold for a text: all of it. It is never nothing, even where a voice is free."""
    return Bound(max(1, characters * price), 0, 0, 0)


def picture_bound(price: int) -> Bound:
    """The hold for a picture: its price. It is never nothing, even where a model is free."""
    return Bound(max(1, price), 0, 0, 0)


def chat_cost(price_input: int, price_output: int, usage: Usage) -> int:
    """The exact cost of what was read and written."""
    return usage.prompt_tokens * price_input + usage.completion_tokens * price_output


log = logging.getLogger(__name__)

#: A hold without a sign of life for this long is recovered.
LEASE_MS = 10_000


class Reservation(msgspec.Struct, frozen=True):
    """Money held for one piece of work. `units` is what was granted, `price_*` what it was held at."""

    hold_id: int
    account_id: int
    amount: int
    units: int
    price_input: int
    price_output: int
    kind: str
    model: str
    #: What it took from the limits of its account and key.
    taken: UsageReservation | None = None


class Charging:
    """Reserve, keep alive, settle. One instance a process."""

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

    async def reserve(
        self,
        caller: Caller,
        bound: Bound,
        generation: NewGeneration,
        *,
        hold_id: int | None = None,
        queue_limit: int | None = None,
    ) -> Reservation:
        """Hold the bound, in one commit with the generation's row. A job waits in the queue, and so needs no lease.

        KeyForbids, BudgetExceeded; InsufficientBalance where the account cannot pay, RateLimited where it has its share
        for now or `queue_limit` of its jobs wait already, Overloaded where the ledger cannot take it now.
        """
        limits, spans = self._limits, self._spans
        is_job, taken = queue_limit is not None, None
        span = None if spans is None else spans.start_hold(generation, is_job=is_job)
        try:
            check_model(caller, generation.model)
            if limits is not None and limits.measures_work_of(caller):
                taken = limits.begin(caller, tokens=bound.tokens, dollars=bound.base + bound.unit * bound.units)
            reservation = await self._hold(caller, bound, generation, hold_id, queue_limit)
        except BaseException as error:
            if limits is not None and taken is not None:
                limits.end(taken, tokens=0, dollars=0)
            if spans is not None and span is not None:
                spans.end_hold(span, error)
            raise
        if spans is not None and span is not None:
            spans.hold_placed(span, reservation.hold_id, reservation.amount, generation, is_job=is_job)
        if limits is None or taken is None:
            return reservation
        if is_job:
            # A job waits and works elsewhere: what it costs is known, and it is no answer under way here.
            limits.end(taken, tokens=0, dollars=reservation.amount)
            return reservation
        return msgspec.structs.replace(reservation, taken=taken)

    async def _hold(
        self, caller: Caller, bound: Bound, generation: NewGeneration, hold_id: int | None, queue_limit: int | None
    ) -> Reservation:
        now_ms, hold_id = self._clock.now_ms(), hold_id or self._clock.new_id()
        claim = None if caller.claim is None else _first_use(caller.claim, hold_id)
        hold = PlaceHold(
            hold_id=hold_id,
            account_id=caller.account_id,
            key_id=caller.key_id,
            kind=generation.kind,
            base=bound.base,
            unit=bound.unit,
            units=bound.units,
            least_units=bound.least_units,
            lease_until_ms=now_ms + LEASE_MS if queue_limit is None else None,
            now_ms=now_ms,
            generation=generation,
            claim=claim,
            queue_limit=queue_limit,
            budget=caller.rules.budget(caller.rotation_group) if caller.rules is not None else None,
        )
        future = self._writer.submit(hold)
        assert future is not None
        try:
            verdict = await future
        except StoreError as error:
            if isinstance(error, CommitInDoubt):
                self._writer.submit(self._release(hold.hold_id, caller.account_id), wait=False)
            raise Overloaded("the ledger cannot write just now; nothing was charged", retry_after_s=5) from error
        except asyncio.CancelledError:
            # Nobody is left to use the hold, and the commit may happen all the same: queue its release behind it.
            self._writer.submit(self._release(hold.hold_id, caller.account_id), wait=False)
            raise
        if not isinstance(verdict, Held):
            if claim is not None:
                claim.hold_id = None
            raise _refusal(verdict)
        return Reservation(
            hold.hold_id,
            caller.account_id,
            verdict.amount,
            verdict.units,
            generation.price_input,
            generation.price_output,
            generation.kind,
            generation.model,
        )

    def settle(
        self, reservation: Reservation, cost: int, outcome: Outcome, *, is_last: bool = False
    ) -> asyncio.Future[Result] | None:
        """Queue the charge; synchronous, so that it may stand in a `finally`. Await the future to know it durable.

        `is_last`: no other answer is under way, so that the charge need not wait for company.
        """
        if reservation.taken is not None and self._limits is not None:
            tokens = outcome.input_units + outcome.output_units if reservation.taken.tokens else 0
            self._limits.end(reservation.taken, tokens=tokens, dollars=cost)
        now_ms = self._clock.now_ms()
        self.meters.ended(reservation.kind, reservation.model, reservation.hold_id, outcome, cost, now_ms)
        settle = Settle(reservation.hold_id, reservation.account_id, cost, now_ms, outcome)
        if self._spans is not None:
            return self._traced_settle(self._spans, settle, is_last=is_last)
        return self._writer.submit(settle, is_last=is_last)

    def _traced_settle(self, spans: Spans, settle: Settle, *, is_last: bool) -> asyncio.Future[Result] | None:
        span = spans.start_settle(settle.hold_id, settle.cost, settle.outcome)
        charge = self._writer.submit(settle, is_last=is_last)
        if span is not None:
            spans.end_settle(span, charge)
        return charge

    def keep_alive(
        self, reservation: Reservation, progress: int, on_lost: Callable[[ServiceError], None] | None = None
    ) -> None:
        """Record the cost so far and renew the lease, in the next commit.

        `on_lost` is called with an error for the caller if the hold is no longer pending: this process was paused
        beyond its lease and another one recovered the hold. The work must stop, because it cannot be charged any more.
        """
        lease_until_ms = self._clock.now_ms() + LEASE_MS
        checkpoint = Checkpoint(reservation.hold_id, reservation.account_id, progress, lease_until_ms)
        if on_lost is None:
            self._writer.submit(checkpoint, wait=False)
        else:
            self._writer.renew(checkpoint, lambda verdict: _lost(reservation, verdict, on_lost))

    def _release(self, hold_id: int, account_id: int) -> Settle:
        outcome = Outcome(state="cancelled", error_code="client_left")
        return Settle(hold_id, account_id, 0, self._clock.now_ms(), outcome)


async def durable(charge: asyncio.Future[Result], *, within_s: float) -> None:
    """Return once the charge is written. TimeoutError if the database is too sick for that, StoreError.

    A hold that the books do not know can pay for nothing, and one that was settled before with another cost or outcome
    was not charged for this: neither must ever look like a charge.
    """
    # A timer on the future itself costs a third of asyncio.timeout, and every request comes by here.
    timer = charge.get_loop().call_later(within_s, _give_up, charge)
    try:
        verdict = await charge
    finally:
        timer.cancel()
    if isinstance(verdict, UnknownAccountOrHold):
        raise StoreError("the books do not know the hold of this charge; nothing was charged")
    if isinstance(verdict, Settled) and verdict.differs:
        raise AlreadySettled(f"the hold was already settled, at a cost of {verdict.cost} and with another outcome")


def _give_up(charge: asyncio.Future[Result]) -> None:
    if not charge.done():
        charge.set_exception(TimeoutError("the charge is not durable yet"))


def _lost(reservation: Reservation, verdict: Result, on_lost: Callable[[ServiceError], None]) -> None:
    log.error(
        "%s: a checkpoint found its hold settled or gone (%s); was this process paused?",
        generation_name(reservation.hold_id),
        verdict,
    )
    on_lost(interrupted())


def interrupted() -> ServiceError:
    """The error for the caller of work whose hold was recovered while it went on."""
    return ServiceError(
        "the charge for this response was already recorded while the server was paused; "
        "the response is not complete, send the request again",
        code="interrupted",
    )


def state_after(error: ServiceError | None) -> GenerationState:
    """How work ended, by what stopped it."""
    if error is None:
        return "succeeded"
    return "cancelled" if isinstance(error, ClientLeft) else "failed"


def charged(verdict: Result) -> int:
    """What a settle took."""
    return verdict.cost if isinstance(verdict, Settled) else 0


def _first_use(claim: IdempotencyClaim, hold_id: int) -> IdempotencyClaim | None:
    """A request may place several holds; its Idempotency-Key is claimed with the first."""
    if claim.hold_id is not None:
        return None
    claim.hold_id = hold_id
    return claim


def already_in_flight() -> IdempotencyInFlight:
    """What a second request hears while the first is at work."""
    return IdempotencyInFlight(
        "a request with this Idempotency-Key is at work; ask again for its answer",
        param="Idempotency-Key",
        retry_after_s=1,
    )


def _refusal(verdict: Result) -> ServiceError:
    """Why there is no hold, for the caller."""
    match verdict:
        case InsufficientFunds():
            return _cannot_pay(verdict)
        case OverBudget():
            return _over_budget(verdict)
        case DuplicateRequest():
            return already_in_flight()
        case QueueFull():
            return RateLimited(
                f"{verdict.queued} jobs of this account wait already, its most; wait for some of them", retry_after_s=5
            )
    return AccessDenied("the account of this key does not exist any more")


def _over_budget(over: OverBudget) -> BudgetExceeded:
    when = {"day": "today (UTC)", "month": "this month (UTC)", "total": "in all"}[over.period]
    return BudgetExceeded(
        f"this request may cost ${format_dollars(over.needed)} at least and this key may spend "
        f"${format_dollars(max(0, over.left))} more {when}; raise its budget or ask for less",
        needed=over.needed,
        left=over.left,
    )


def _cannot_pay(refused: InsufficientFunds) -> InsufficientBalance:
    return InsufficientBalance(
        f"this request may cost ${format_dollars(refused.needed)} at least and the account has "
        f"${format_dollars(max(0, refused.available))} available; top up or ask for less",
        needed=refused.needed,
        available=refused.available,
    )
