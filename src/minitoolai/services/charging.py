"""Joins prices and money: what a request may cost becomes a hold, what it did cost becomes a charge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from minitoolai.core.books import (
    Checkpoint,
    Claimed,
    Held,
    OverBudget,
    PlaceHold,
    QueueFull,
    Refused,
    Settle,
    Settled,
    Unknown,
    Verdict,
)
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
from minitoolai.core.money import format_dollars
from minitoolai.core.records import Caller, Claim, GenerationState, NewGeneration, Outcome
from minitoolai.services.admission import check_model
from minitoolai.services.limits import Limits, Taken
from minitoolai.services.meters import Meters
from minitoolai.services.pricing import Bound
from minitoolai.storage.writer import Writer

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
    taken: Taken | None = None


class Charging:
    """Reserve, keep alive, settle. One instance a process."""

    def __init__(
        self, writer: Writer, clock: Clock, limits: Limits | None = None, meters: Meters | None = None
    ) -> None:
        self.meters = meters or Meters()
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
        check_model(caller, generation.model)
        limits = self._limits
        if limits is None or not limits.measures_work_of(caller):
            return await self._hold(caller, bound, generation, hold_id, queue_limit)
        taken = limits.begin(caller, tokens=bound.tokens, dollars=bound.base + bound.unit * bound.units)
        try:
            reservation = await self._hold(caller, bound, generation, hold_id, queue_limit)
        except BaseException:
            limits.end(taken, tokens=0, dollars=0)
            raise
        if queue_limit is not None:
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
            budget=caller.rules.budget(caller.family) if caller.rules is not None else None,
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
    ) -> asyncio.Future[Verdict] | None:
        """Queue the charge; synchronous, so that it may stand in a `finally`. Await the future to know it durable.

        `is_last`: no other answer is under way, so that the charge need not wait for company.
        """
        if reservation.taken is not None and self._limits is not None:
            tokens = outcome.input_units + outcome.output_units if reservation.taken.tokens else 0
            self._limits.end(reservation.taken, tokens=tokens, dollars=cost)
        now_ms = self._clock.now_ms()
        self.meters.ended(reservation.kind, reservation.model, reservation.hold_id, outcome, cost, now_ms)
        settle = Settle(reservation.hold_id, reservation.account_id, cost, now_ms, outcome)
        return self._writer.submit(settle, is_last=is_last)

    def keep_alive(
        self, reservation: Reservation, progress: int, on_lost: Callable[[ServiceError], None] | None = None
    ) -> None:
        """Write down the cost so far and move the lease; rides with the next commit.

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


async def durable(charge: asyncio.Future[Verdict], *, within_s: float) -> None:
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
    if isinstance(verdict, Unknown):
        raise StoreError("the books do not know the hold of this charge; nothing was charged")
    if isinstance(verdict, Settled) and verdict.differs:
        raise AlreadySettled(f"the hold was already settled, at a cost of {verdict.cost} and with another outcome")


def _give_up(charge: asyncio.Future[Verdict]) -> None:
    if not charge.done():
        charge.set_exception(TimeoutError("the charge is not durable yet"))


def _lost(reservation: Reservation, verdict: Verdict, on_lost: Callable[[ServiceError], None]) -> None:
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


def charged(verdict: Verdict) -> int:
    """What a settle took."""
    return verdict.cost if isinstance(verdict, Settled) else 0


def _first_use(claim: Claim, hold_id: int) -> Claim | None:
    """A request may place several holds; its Idempotency-Key is claimed with the first."""
    if claim.hold_id is not None:
        return None
    claim.hold_id = hold_id
    return claim


def in_flight() -> IdempotencyInFlight:
    """What a second request hears while the first is at work."""
    return IdempotencyInFlight(
        "a request with this Idempotency-Key is at work; ask again for its answer",
        param="Idempotency-Key",
        retry_after_s=1,
    )


def _refusal(verdict: Verdict) -> ServiceError:
    """Why there is no hold, for the caller."""
    match verdict:
        case Refused():
            return _cannot_pay(verdict)
        case OverBudget():
            return _over_budget(verdict)
        case Claimed():
            return in_flight()
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


def _cannot_pay(refused: Refused) -> InsufficientBalance:
    return InsufficientBalance(
        f"this request may cost ${format_dollars(refused.needed)} at least and the account has "
        f"${format_dollars(max(0, refused.available))} available; top up or ask for less",
        needed=refused.needed,
        available=refused.available,
    )
