"""The only money logic: a pure function from books and an operation to a verdict. It reads no clock and no row.

Every check comes first; after "Every check is behind us" nothing may fail. See docs/ledger.md.
"""

from __future__ import annotations

from minitoolai.core.models import Outcome, Period, period_ids
from minitoolai.ledger.types import (
    FUNDING,
    REVENUE,
    AccountState,
    Checkpoint,
    ClaimState,
    Credit,
    Credited,
    DuplicateRequest,
    Held,
    HoldState,
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
    Unknown,
)


def decide(books: LedgerState, operation: Operation) -> Result:
    """Judge one operation and, where it is granted, change the books in memory. Never raises on bad input."""
    match operation:
        case PlaceHold():
            return _place(books, operation)
        case Settle():
            return _settle(books, operation)
        case Checkpoint():
            return _checkpoint(books, operation)
        case Recover():
            return _recover(books, operation)
        case Requeue():
            return _requeue(books, operation)
        case Credit():
            return _credit(books, operation)
        case Reverse():
            return _reverse(books, operation)


def _place(books: LedgerState, ask: PlaceHold) -> Result:
    account = books.accounts.get(ask.account_id)
    if account is None:
        return Unknown()
    known = books.holds.get(ask.hold_id)
    if known is not None and known.account_id != ask.account_id:
        return Unknown()
    if known is not None:
        # The same hold again: a COMMIT whose answer was lost, replayed. Answer from the row.
        return Held(known.amount, (known.amount - ask.base) // ask.unit if ask.unit else ask.units)
    if ask.claim is not None and not _is_free(books, ask.claim.id, ask.now_ms):
        return DuplicateRequest()
    units = ask.units
    amount = ask.base + units * ask.unit
    available, period = _may_spend(books, ask, account)
    if amount > available:
        # What the money buys; a price that does not depend on the units cannot be cut.
        units = (available - ask.base) // ask.unit if ask.unit else -1
        if units < ask.least_units:
            needed = ask.base + ask.least_units * ask.unit
            return InsufficientFunds(needed, available) if period is None else OverBudget(period, needed, available)
        amount = ask.base + units * ask.unit
    if ask.queue_limit is not None and (full := _queue_up(books, ask, ask.queue_limit)) is not None:
        return full
    assert amount > 0, "a hold of nothing protects nothing"
    assert account.posted - account.held >= amount, "a hold never exceeds what is available"
    # Every check is behind us.
    account.held += amount
    account.dirty = True
    hold = HoldState(ask.account_id, amount, lease_until_ms=ask.lease_until_ms, kind=ask.kind)
    books.holds[ask.hold_id] = hold
    if ask.budget is not None:
        hold.budget_id, hold.budget_ms = ask.budget.id, ask.now_ms
        _count(books, hold, amount)
    books.placed.append((ask, amount))
    if ask.claim is not None:
        books.claims[ask.claim.id] = ClaimState(ask.now_ms, False, ask.hold_id, "pending", 0)
    return Held(amount, units)


def _may_spend(books: LedgerState, ask: PlaceHold, account: AccountState) -> tuple[int, Period | None]:
    """What is left, and by which budget; None where the balance is what limits it."""
    left: int = account.available
    tightest: Period | None = None
    if ask.budget is not None:
        for period, name in period_ids(ask.budget.id, ask.now_ms).items():
            limit = ask.budget.limit(period)
            if limit is not None and limit - books.spending[name].used < left:
                left, tightest = limit - books.spending[name].used, period
    return left, tightest


def _count(books: LedgerState, hold: HoldState, change: int) -> None:
    """Add to what the hold's budget has spent, in each of its periods; those swept long ago count no more."""
    if hold.budget_id is None or hold.budget_ms is None:
        return
    for name in period_ids(hold.budget_id, hold.budget_ms).values():
        spending = books.spending.get(name)
        if spending is not None:
            spending.used += change
            spending.dirty = True


def _is_free(books: LedgerState, claim_id: str, now_ms: int) -> bool:
    claim = books.claims.get(claim_id)
    if claim is None:
        return True
    hold = books.holds.get(claim.hold_id)
    if hold is not None:
        # It may have been settled a moment ago, in this very batch.
        claim.hold_state, claim.settled = hold.state, hold.settled
    return claim.is_free(now_ms)


def _queue_up(books: LedgerState, ask: PlaceHold, limit: int) -> QueueFull | None:
    """The last check of a job: a place in the queue. Start-time fair queueing: one turn for each job of an account."""
    queue = books.queues.setdefault(ask.account_id, QueueState())
    if queue.queued >= limit:
        return QueueFull(queue.queued)
    # The account's next turn, but none that has passed for everybody: who comes late does not overtake.
    queue.last_turn = max(queue.last_turn, books.first_turn) + 1
    queue.queued += 1
    books.turns[ask.hold_id] = queue.last_turn
    return None


def _settle(books: LedgerState, ask: Settle) -> Result:
    hold = books.holds.get(ask.hold_id)
    account = books.accounts.get(ask.account_id)
    if hold is None or account is None or hold.account_id != ask.account_id:
        return Unknown()
    if hold.state != "pending":
        return Settled(hold.settled, hold.shortfall, repeated=True)
    if ask.attempt is not None and _current(books, ask.hold_id, ask.attempt) is None:
        return Superseded()
    return _close(books, ask.hold_id, hold, account, ask.cost, ask.now_ms, ask.outcome)


def _requeue(books: LedgerState, ask: Requeue) -> Result:
    hold = books.holds.get(ask.hold_id)
    account = books.accounts.get(ask.account_id)
    if hold is None or account is None or hold.account_id != ask.account_id:
        return Unknown()
    if hold.state != "pending":
        return Settled(hold.settled, hold.shortfall, repeated=True)
    job = _current(books, ask.hold_id, ask.attempt)
    if job is None:
        return Superseded()
    if ask.reason == "lapsed" and (job.lease_until_ms or 0) > ask.now_ms and not ask.forced:
        return StillLeased()
    failures = job.failures if ask.reason == "handed_back" else job.failures + 1
    if failures >= ask.most_failures:
        outcome = Outcome(state="failed", error_code=ask.error_code, error=ask.error)
        return _close(books, ask.hold_id, hold, account, 0, ask.now_ms, outcome)
    # Every check is behind us. Its turn stays what it was, so it is among the next.
    job.state, job.failures, job.lease_until_ms = "queued", failures, None
    job.dirty = True
    return Requeued(failures)


def _current(books: LedgerState, hold_id: int, attempt: int) -> JobState | None:
    """The job, if this is the attempt under way."""
    job = books.jobs.get(hold_id)
    return job if job is not None and job.state == "running" and job.attempt == attempt else None


def _checkpoint(books: LedgerState, ask: Checkpoint) -> Result:
    hold = books.holds.get(ask.hold_id)
    if hold is None or hold.account_id != ask.account_id:
        return Unknown()
    if hold.state != "pending":
        return Settled(hold.settled, hold.shortfall, repeated=True)
    # Progress only grows, and never past the hold: a late checkpoint must not undo a later one.
    hold.progress = max(hold.progress, min(ask.progress, hold.amount))
    hold.lease_until_ms = max(hold.lease_until_ms or 0, ask.lease_until_ms)
    hold.dirty = True
    return Renewed()


def _recover(books: LedgerState, ask: Recover) -> Result:
    hold = books.holds.get(ask.hold_id)
    account = books.accounts.get(ask.account_id)
    if hold is None or account is None or hold.account_id != ask.account_id:
        return Unknown()
    if hold.state != "pending":
        return Settled(hold.settled, hold.shortfall, repeated=True)
    if hold.lease_until_ms is None or (hold.lease_until_ms > ask.now_ms and not ask.forced):
        return StillLeased()
    outcome = Outcome(state="failed", error_code="interrupted", estimated=True)
    return _close(books, ask.hold_id, hold, account, hold.progress, ask.now_ms, outcome)


def _close(
    books: LedgerState,
    hold_id: int,
    hold: HoldState,
    account: AccountState,
    cost: int,
    now_ms: int,
    outcome: Outcome,
) -> Settled:
    """Capture what the hold covers of the cost, release the rest, and note the difference as shortfall."""
    assert cost >= 0, "work never pays the customer"
    captured = min(cost, hold.amount)
    assert account.held >= hold.amount, "held is the sum of pending holds, this one among them"
    # Every check is behind us.
    account.held -= hold.amount
    account.dirty = True
    hold.state = "posted" if captured else "voided"
    hold.settled = captured
    hold.shortfall = cost - captured
    hold.dirty = True
    _count(books, hold, captured - hold.amount)
    if captured:
        account.posted -= captured
        _transfer(
            books,
            account,
            "usage",
            debit=hold.account_id,
            credit=REVENUE,
            amount=captured,
            now_ms=now_ms,
            hold_id=hold_id,
        )
    books.outcomes.append((hold_id, captured, hold.shortfall, now_ms, outcome))
    return Settled(captured, hold.shortfall)


def _credit(books: LedgerState, ask: Credit) -> Result:
    account = books.accounts.get(ask.account_id)
    if account is None:
        return Unknown()
    if ask.external_ref in books.credited:
        return Credited(account.posted, repeated=True)
    assert ask.amount > 0, "a credit adds"
    # Every check is behind us.
    account.posted += ask.amount
    account.dirty = True
    books.credited.add(ask.external_ref)
    _transfer(
        books,
        account,
        ask.kind,
        debit=FUNDING,
        credit=ask.account_id,
        amount=ask.amount,
        now_ms=ask.now_ms,
        external_ref=ask.external_ref,
        reason=ask.reason,
    )
    return Credited(account.posted)


def _reverse(books: LedgerState, ask: Reverse) -> Result:
    account = books.accounts.get(ask.account_id)
    if account is None:
        return Unknown()
    if ask.external_ref in books.credited:
        return Reversed(account.posted, 0, repeated=True)
    assert ask.amount > 0, "a reversal takes"
    taken = min(ask.amount, account.available)
    if not taken:
        return Reversed(account.posted, 0)
    # Every check is behind us.
    account.posted -= taken
    account.dirty = True
    books.credited.add(ask.external_ref)
    _transfer(
        books,
        account,
        ask.kind,
        debit=ask.account_id,
        credit=FUNDING,
        amount=taken,
        now_ms=ask.now_ms,
        external_ref=ask.external_ref,
        reason=ask.reason,
    )
    return Reversed(account.posted, taken)


def _transfer(
    books: LedgerState,
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
    """Write down one movement, with the customer's version and balance after it."""
    account.version += 1
    assert account.posted >= account.held >= 0, "no balance below zero"
    assert debit != credit, "money moves between two accounts"
    books.transfers.append(
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
