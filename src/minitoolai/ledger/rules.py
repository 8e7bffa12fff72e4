"""Ledger rules: `decide` is a pure function of ledger state and operation. It reads no clock and no database.

This is the only code that changes money. Every function makes all checks first; after the comment "Every check is
behind us" nothing may fail. See docs/ledger.md.
"""

from __future__ import annotations

from minitoolai.core.models import Outcome, Period, period_ids
from minitoolai.ledger.types import (
    FUNDING,
    REVENUE,
    AccountState,
    Checkpoint,
    Credit,
    Credited,
    DuplicateRequest,
    Held,
    HoldState,
    IdempotencyClaimState,
    InsufficientFunds,
    JobState,
    LedgerState,
    NewTransfer,
    Operation,
    OverBudget,
    PlaceHold,
    QueueFull,
    QueueState,
    Recover,
    Renewed,
    Requeue,
    Requeued,
    Result,
    Reverse,
    Reversed,
    Settle,
    Settled,
    StillLeased,
    Superseded,
    UnknownAccountOrHold,
)


def decide(state: LedgerState, operation: Operation) -> Result:
    """Decide one operation and, if it is granted, change the state in memory. Never raise on invalid input."""
    match operation:
        case PlaceHold():
            return _place_hold(state, operation)
        case Settle():
            return _settle(state, operation)
        case Checkpoint():
            return _checkpoint(state, operation)
        case Recover():
            return _recover(state, operation)
        case Requeue():
            return _requeue(state, operation)
        case Credit():
            return _credit(state, operation)
        case Reverse():
            return _reverse(state, operation)


def _place_hold(state: LedgerState, operation: PlaceHold) -> Result:
    account = state.accounts.get(operation.account_id)
    if account is None:
        return UnknownAccountOrHold()
    existing = state.holds.get(operation.hold_id)
    if existing is not None and existing.account_id != operation.account_id:
        return UnknownAccountOrHold()
    if existing is not None:
        # The hold exists: a COMMIT without a response is replayed. Return the result from the row.
        return Held(
            existing.amount, (existing.amount - operation.base) // operation.unit if operation.unit else operation.units
        )
    if operation.claim is not None and not _claim_is_free(state, operation.claim.id, operation.now_ms):
        return DuplicateRequest()
    units = operation.units
    amount = operation.base + units * operation.unit
    available, period = _spendable(state, operation, account)
    if amount > available:
        # Grant as many units as the money buys. A price that does not depend on units cannot be reduced.
        units = (available - operation.base) // operation.unit if operation.unit else -1
        if units < operation.least_units:
            needed = operation.base + operation.least_units * operation.unit
            return InsufficientFunds(needed, available) if period is None else OverBudget(period, needed, available)
        amount = operation.base + units * operation.unit
    if operation.queue_limit is not None and (full := _join_queue(state, operation, operation.queue_limit)) is not None:
        return full
    assert amount > 0, "a hold has a positive amount"
    assert account.posted - account.held >= amount, "a hold never exceeds what is available"
    # Every check is behind us.
    account.held += amount
    account.dirty = True
    hold = HoldState(operation.account_id, amount, lease_until_ms=operation.lease_until_ms, kind=operation.kind)
    state.holds[operation.hold_id] = hold
    if operation.budget is not None:
        hold.budget_id, hold.budget_ms = operation.budget.id, operation.now_ms
        _count_spending(state, hold, amount)
    state.new_holds.append((operation, amount))
    if operation.claim is not None:
        state.claims[operation.claim.id] = IdempotencyClaimState(
            operation.now_ms, False, operation.hold_id, "pending", 0
        )
    return Held(amount, units)


def _spendable(state: LedgerState, operation: PlaceHold, account: AccountState) -> tuple[int, Period | None]:
    """Return the spendable amount and the budget period that limits it, or None if the balance does."""
    left: int = account.available
    tightest: Period | None = None
    if operation.budget is not None:
        for period, name in period_ids(operation.budget.id, operation.now_ms).items():
            limit = operation.budget.limit(period)
            if limit is not None and limit - state.spending[name].used < left:
                left, tightest = limit - state.spending[name].used, period
    return left, tightest


def _count_spending(state: LedgerState, hold: HoldState, change: int) -> None:
    """Add to the spending of the hold's budget in each of its periods. Periods already deleted are skipped."""
    if hold.budget_id is None or hold.budget_ms is None:
        return
    for name in period_ids(hold.budget_id, hold.budget_ms).values():
        spending = state.spending.get(name)
        if spending is not None:
            spending.used += change
            spending.dirty = True


def _claim_is_free(state: LedgerState, claim_id: str, now_ms: int) -> bool:
    claim = state.claims.get(claim_id)
    if claim is None:
        return True
    hold = state.holds.get(claim.hold_id)
    if hold is not None:
        # The hold may have been settled earlier in this batch.
        claim.hold_state, claim.settled = hold.state, hold.settled
    return claim.is_free(now_ms)


def _join_queue(state: LedgerState, operation: PlaceHold, limit: int) -> QueueFull | None:
    """Assign a turn to a new job, or return QueueFull. Start-time fair queueing: accounts take turns."""
    queue = state.queues.setdefault(operation.account_id, QueueState())
    if queue.queued >= limit:
        return QueueFull(queue.queued)
    # The account's next turn, but not before the lowest queued turn: a latecomer does not overtake everyone.
    queue.last_turn = max(queue.last_turn, state.first_turn) + 1
    queue.queued += 1
    state.turns[operation.hold_id] = queue.last_turn
    return None


def _settle(state: LedgerState, operation: Settle) -> Result:
    hold = state.holds.get(operation.hold_id)
    account = state.accounts.get(operation.account_id)
    if hold is None or account is None or hold.account_id != operation.account_id:
        return UnknownAccountOrHold()
    if hold.state != "pending":
        return Settled(hold.settled, hold.shortfall, repeated=True)
    if operation.attempt is not None and _running_attempt(state, operation.hold_id, operation.attempt) is None:
        return Superseded()
    return _close_hold(state, operation.hold_id, hold, account, operation.cost, operation.now_ms, operation.outcome)


def _requeue(state: LedgerState, operation: Requeue) -> Result:
    hold = state.holds.get(operation.hold_id)
    account = state.accounts.get(operation.account_id)
    if hold is None or account is None or hold.account_id != operation.account_id:
        return UnknownAccountOrHold()
    if hold.state != "pending":
        return Settled(hold.settled, hold.shortfall, repeated=True)
    job = _running_attempt(state, operation.hold_id, operation.attempt)
    if job is None:
        return Superseded()
    is_leased = (job.lease_until_ms or 0) > operation.lease_now_ms
    if operation.reason == "lapsed" and is_leased and not operation.forced:
        return StillLeased()
    failures = job.failures if operation.reason == "handed_back" else job.failures + 1
    if failures >= operation.most_failures:
        outcome = Outcome(state="failed", error_code=operation.error_code, error=operation.error)
        return _close_hold(state, operation.hold_id, hold, account, 0, operation.now_ms, outcome)
    # Every check is behind us. The job keeps its turn, so it is among the next ones.
    job.state, job.failures, job.lease_until_ms = "queued", failures, None
    job.dirty = True
    return Requeued(failures)


def _running_attempt(state: LedgerState, hold_id: int, attempt: int) -> JobState | None:
    """Return the job if this attempt is the running one."""
    job = state.jobs.get(hold_id)
    return job if job is not None and job.state == "running" and job.attempt == attempt else None


def _checkpoint(state: LedgerState, operation: Checkpoint) -> Result:
    hold = state.holds.get(operation.hold_id)
    if hold is None or hold.account_id != operation.account_id:
        return UnknownAccountOrHold()
    if hold.state != "pending":
        return Settled(hold.settled, hold.shortfall, repeated=True)
    # Progress only grows, up to the hold: a late checkpoint must not undo a later one.
    hold.progress = max(hold.progress, min(operation.progress, hold.amount))
    hold.lease_until_ms = max(hold.lease_until_ms or 0, operation.lease_until_ms)
    hold.dirty = True
    return Renewed()


def _recover(state: LedgerState, operation: Recover) -> Result:
    hold = state.holds.get(operation.hold_id)
    account = state.accounts.get(operation.account_id)
    if hold is None or account is None or hold.account_id != operation.account_id:
        return UnknownAccountOrHold()
    if hold.state != "pending":
        return Settled(hold.settled, hold.shortfall, repeated=True)
    if hold.lease_until_ms is None or (hold.lease_until_ms > operation.lease_now_ms and not operation.forced):
        return StillLeased()
    outcome = Outcome(state="failed", error_code="interrupted", estimated=True)
    return _close_hold(state, operation.hold_id, hold, account, hold.progress, operation.now_ms, outcome)


def _close_hold(
    state: LedgerState,
    hold_id: int,
    hold: HoldState,
    account: AccountState,
    cost: int,
    now_ms: int,
    outcome: Outcome,
) -> Settled:
    """Capture the part of the cost that the hold covers, release the remainder, and record any shortfall."""
    assert cost >= 0, "a cost is never negative"
    captured = min(cost, hold.amount)
    assert account.held >= hold.amount, "held is the sum of pending holds, this one among them"
    # Every check is behind us.
    account.held -= hold.amount
    account.dirty = True
    hold.state = "posted" if captured else "voided"
    hold.settled = captured
    hold.shortfall = cost - captured
    hold.dirty = True
    _count_spending(state, hold, captured - hold.amount)
    if captured:
        account.posted -= captured
        _transfer(
            state,
            account,
            "usage",
            debit=hold.account_id,
            credit=REVENUE,
            amount=captured,
            now_ms=now_ms,
            hold_id=hold_id,
        )
    state.outcomes.append((hold_id, captured, hold.shortfall, now_ms, outcome))
    return Settled(captured, hold.shortfall)


def _credit(state: LedgerState, operation: Credit) -> Result:
    account = state.accounts.get(operation.account_id)
    if account is None:
        return UnknownAccountOrHold()
    if operation.external_ref in state.known_references:
        return Credited(account.posted, repeated=True)
    assert operation.amount > 0, "a credit adds"
    # Every check is behind us.
    account.posted += operation.amount
    account.dirty = True
    state.known_references.add(operation.external_ref)
    _transfer(
        state,
        account,
        operation.kind,
        debit=FUNDING,
        credit=operation.account_id,
        amount=operation.amount,
        now_ms=operation.now_ms,
        external_ref=operation.external_ref,
        reason=operation.reason,
    )
    return Credited(account.posted)


def _reverse(state: LedgerState, operation: Reverse) -> Result:
    account = state.accounts.get(operation.account_id)
    if account is None:
        return UnknownAccountOrHold()
    if operation.external_ref in state.known_references:
        return Reversed(account.posted, 0, repeated=True)
    assert operation.amount > 0, "a reversal takes"
    taken = min(operation.amount, account.available)
    if not taken:
        return Reversed(account.posted, 0)
    # Every check is behind us.
    account.posted -= taken
    account.dirty = True
    state.known_references.add(operation.external_ref)
    _transfer(
        state,
        account,
        operation.kind,
        debit=operation.account_id,
        credit=FUNDING,
        amount=taken,
        now_ms=operation.now_ms,
        external_ref=operation.external_ref,
        reason=operation.reason,
    )
    return Reversed(account.posted, taken)


def _transfer(
    state: LedgerState,
    account: AccountState,
    kind: str,
    *,
    debit: int,
    credit: int,
    amount: int,
    now_ms: int,
    hold_id: int | None = None,
    external_ref: str | None = None,
    reason: str | None = None,
) -> None:
    """Record one transfer, with the customer's version and balance after it."""
    account.version += 1
    assert account.posted >= account.held >= 0, "no balance below zero"
    assert debit != credit, "money moves between two accounts"
    state.transfers.append(
        NewTransfer(
            kind=kind,
            debit=debit,
            credit=credit,
            amount=amount,
            hold_id=hold_id,
            external_ref=external_ref,
            account_version=account.version,
            balance_after=account.posted,
            created_ms=now_ms,
            reason=reason,
        )
    )
