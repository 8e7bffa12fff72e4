"""Ledger rules: `decide` is a pure function of ledger state and operation. It reads no clock and no database.

This is the only code that changes money. Every function makes all checks first; after the comment "Every check is
behind us" nothing may fail. See docs/ledger.md.
"""

from __future__ import annotations

from typing import NamedTuple

from minitoolai.core.models import Budget, Outcome, Period, period_ids, split_budget_ids
from minitoolai.core.plans import PlanWindow
from minitoolai.ledger.types import (
    FUNDING,
    REVENUE,
    AccountState,
    Bought,
    BuyPlan,
    Checkpoint,
    ClaimAnswer,
    Credit,
    Credited,
    DuplicateRequest,
    ExpireCredit,
    Expired,
    Held,
    HoldState,
    IdempotencyClaimState,
    InsufficientFunds,
    JobState,
    LedgerState,
    NewRefund,
    NewTransfer,
    NotRefundable,
    Operation,
    OverBudget,
    PlaceHold,
    PlanRunning,
    PurseState,
    QueueFull,
    QueueState,
    Recover,
    Refund,
    Refunded,
    RefundState,
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
    budgets_of,
    stored_budgets,
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
        case Refund():
            return _refund(state, operation)
        case BuyPlan():
            return _buy_plan(state, operation)
        case ExpireCredit():
            return _expire_credit(state, operation)


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
    budget_left, tightest = _budget_left(state, operation)
    wanted = amount if budget_left is None else min(amount, budget_left)
    # Free requests need no credit, so an empty purse does not pay for them.
    wallet = _choose_wallet(state, operation, account, wanted) if amount else _balance_of(account)
    available = wallet.left
    if budget_left is not None and budget_left < available:
        available = budget_left
    else:
        tightest = None
    # A free request needs no money, even if its budget was lowered below the amount already spent.
    if amount > max(available, 0):
        # Grant as many units as the money buys. A price that does not depend on units cannot be reduced.
        units = (available - operation.base) // operation.unit if operation.unit else -1
        if units < operation.least_units:
            needed = operation.base + operation.least_units * operation.unit
            if tightest is not None:
                return OverBudget(tightest[0], needed, available, tightest[1] is operation.team_budget)
            return InsufficientFunds(needed, available, wallet.window)
        amount = operation.base + units * operation.unit
    if operation.queue_limit is not None and (full := _join_queue(state, operation, operation.queue_limit)) is not None:
        return full
    assert amount >= 0, "a hold is never negative"
    payer = wallet.account
    assert payer.posted - payer.held >= amount, "a hold never exceeds what is available"
    # Every check is behind us.
    payer.held += amount
    payer.dirty = True
    hold = HoldState(operation.account_id, amount, lease_until_ms=operation.lease_until_ms, kind=operation.kind)
    hold.purse_id = wallet.purse_id
    state.holds[operation.hold_id] = hold
    _count_in_windows(state, hold, operation.now_ms, amount)
    if budgets_of(operation):
        hold.budget_id, hold.budget_ms = stored_budgets(operation), operation.now_ms
        _count_spending(state, hold, amount)
    state.new_holds.append((operation, amount))
    if operation.claim is not None:
        is_kept = operation.claim.answer is not None
        state.claims[operation.claim.id] = IdempotencyClaimState(
            operation.now_ms, is_kept, operation.hold_id, "pending", 0
        )
    return Held(amount, units)


class _Wallet(NamedTuple):
    """What pays for a hold: the balance, or a purse. It may spend `left` now.

    `window`: the one that keeps the account from spending all credit of its plan.
    """

    purse_id: int | None
    account: AccountState
    left: int
    window: PlanWindow | None


def _balance_of(account: AccountState) -> _Wallet:
    return _Wallet(None, account, account.available, None)


def _choose_wallet(state: LedgerState, operation: PlaceHold, account: AccountState, wanted: int) -> _Wallet:
    """Return the plan's purse, or the balance if that has more and the plan's credit does not cover all of `wanted`."""
    purse_id = _open_purse(state, operation.account_id, operation.now_ms)
    if purse_id is None:
        return _balance_of(account)
    credit = state.accounts[purse_id]
    left, tightest = credit.available, None
    for spending, window, limit in state.windows_of(purse_id, operation.now_ms):
        assert spending is not None, "the windows of an open purse are loaded"
        room = limit - spending.used
        if room < left:
            left, tightest = room, window
    if left < wanted and left < account.available:
        return _Wallet(None, account, account.available, tightest)
    return _Wallet(purse_id, credit, left, tightest)


def _open_purse(state: LedgerState, owner_id: int, now_ms: int) -> int | None:
    """Return the purse that pays for this account now."""
    for purse_id, purse in state.purses_of(owner_id) if state.purses else ():
        if purse.is_open(now_ms):
            return purse_id
    return None


def _count_in_windows(state: LedgerState, hold: HoldState, placed_ms: int, change: int) -> None:
    """Add to the spending in the windows in which a purse's hold was placed. Windows already deleted are skipped."""
    if hold.purse_id is None:
        return
    for spending, _, _ in state.windows_of(hold.purse_id, placed_ms):
        if spending is not None:
            spending.used += change
            spending.dirty = True


def _budget_left(state: LedgerState, operation: PlaceHold) -> tuple[int | None, tuple[Period, Budget] | None]:
    """Return what the budgets leave to spend, and which of them leaves least, in which period. None: no limit."""
    left: int | None = None
    tightest: tuple[Period, Budget] | None = None
    for budget in budgets_of(operation):
        for period, name in period_ids(budget.id, operation.now_ms).items():
            limit = budget.limit(period)
            if limit is None:
                continue
            room = limit - state.spending[name].used
            if left is None or room < left:
                left, tightest = room, (period, budget)
    return left, tightest


def _count_spending(state: LedgerState, hold: HoldState, change: int) -> None:
    """Add to the spending of the hold's budgets in each of their periods. Periods already deleted are skipped."""
    for budget_id in split_budget_ids(hold.budget_id):
        assert hold.budget_ms is not None, "set together with budget_id"
        for name in period_ids(budget_id, hold.budget_ms).values():
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
    settled = _close_hold(state, operation.hold_id, hold, account, operation.cost, operation.now_ms, operation.outcome)
    # What failed without a charge may be tried again under its key.
    if operation.answer is not None and (hold.state == "posted" or operation.outcome.state == "succeeded"):
        _keep_answer(state, operation.hold_id, operation.answer)
    return settled


def _keep_answer(state: LedgerState, hold_id: int, answer: ClaimAnswer) -> None:
    state.answers.append((hold_id, answer))
    claim = state.claims.get(answer.claim_id)
    if claim is not None and claim.hold_id == hold_id:
        claim.is_kept = True


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
    failures, losses = job.failures + (operation.reason == "failed"), job.losses + (operation.reason == "lapsed")
    count = losses if operation.reason == "lapsed" else failures
    if operation.reason != "handed_back" and count >= operation.most:
        outcome = Outcome(state="failed", error_code=operation.error_code, error=operation.error)
        return _close_hold(state, operation.hold_id, hold, account, 0, operation.now_ms, outcome)
    # Every check is behind us. The job keeps its turn, so it is among the next ones.
    job.state, job.failures, job.losses, job.lease_until_ms = "queued", failures, losses, None
    job.dirty = True
    return Requeued(count)


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
    if operation.serving is not None:
        state.serving[operation.hold_id] = operation.serving
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
    payer_id = hold.account_id
    if hold.purse_id is not None:
        payer_id, account = hold.purse_id, state.accounts[hold.purse_id]
    assert account.held >= hold.amount, "held is the sum of pending holds, this one among them"
    # Every check is behind us.
    account.held -= hold.amount
    account.dirty = True
    hold.state = "posted" if captured else "voided"
    hold.settled = captured
    hold.shortfall = cost - captured
    hold.dirty = True
    if outcome.serving is not None:
        state.serving[hold_id] = outcome.serving
    _count_spending(state, hold, captured - hold.amount)
    if hold.purse_id is not None:
        _count_in_windows(state, hold, state.work_of(hold_id).created_ms, captured - hold.amount)
    if captured:
        account.posted -= captured
        _transfer(
            state,
            account,
            "usage",
            debit=payer_id,
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


def _refund(state: LedgerState, operation: Refund) -> Result:
    hold = state.holds.get(operation.hold_id)
    account = state.accounts.get(operation.account_id)
    if hold is None or account is None or hold.account_id != operation.account_id:
        return UnknownAccountOrHold()
    given = state.refunds.setdefault(operation.hold_id, RefundState())
    if operation.external_ref in state.known_references:
        return Refunded(account.posted, 0, given.total, repeated=True)
    if hold.state == "pending":
        return NotRefundable(0, is_pending=True)
    left = hold.settled - given.total
    amount = left if operation.amount is None else operation.amount
    if amount > left or not left:
        return NotRefundable(left)
    assert amount > 0, "a refund gives"
    assert given.total + amount <= hold.settled, "refunds never exceed what the hold took"
    # Every check is behind us.
    account.posted += amount
    account.dirty = True
    given.count += 1
    given.total += amount
    state.known_references.add(operation.external_ref)
    state.new_refunds.append(
        NewRefund(
            hold_id=operation.hold_id,
            number=given.count,
            account_id=operation.account_id,
            external_ref=operation.external_ref,
            amount=amount,
            total=given.total,
            cost=hold.settled,
        )
    )
    _transfer(
        state,
        account,
        "usage_refund",
        debit=REVENUE,
        credit=operation.account_id,
        amount=amount,
        now_ms=operation.now_ms,
        external_ref=operation.external_ref,
        reason=operation.reason,
    )
    return Refunded(account.posted, amount, given.total)


def _buy_plan(state: LedgerState, operation: BuyPlan) -> Result:
    account = state.accounts.get(operation.account_id)
    purse = state.purses.get(operation.purse_id)
    if account is None or purse is None or purse.owner_id != operation.account_id:
        return UnknownAccountOrHold()
    if operation.external_ref in state.known_references:
        return Bought(account.posted, repeated=True)
    refunded = 0
    if operation.replaces is not None:
        replaced = state.purses.get(operation.replaces)
        if replaced is None or replaced.owner_id != operation.account_id:
            return UnknownAccountOrHold()
        refunded = unused_part(replaced, state.accounts[operation.replaces].available, operation.now_ms)
    available = account.available + refunded
    if operation.price > available:
        return InsufficientFunds(operation.price, available)
    assert operation.price >= 0, "a price is never negative"
    assert operation.credit > 0, "a plan gives credit"
    credit = state.accounts[operation.purse_id]
    assert credit.version == 0, "a purse is filled once"
    # Every check is behind us.
    state.known_references.add(operation.external_ref)
    if operation.replaces is not None:
        replaced = state.purses[operation.replaces]
        replaced.ends_ms = min(replaced.ends_ms, max(operation.now_ms, replaced.begins_ms))
        replaced.dirty = True
        _expire_available(state, operation.replaces, replaced, operation.now_ms)
    reference, reason, now_ms = operation.external_ref, operation.reason, operation.now_ms
    if refunded:
        _external(state, operation.account_id, account, "plan_refund", refunded, f"{reference}:refund", reason, now_ms)
    if operation.price:
        _external(state, operation.account_id, account, "plan", -operation.price, f"{reference}:price", reason, now_ms)
    _external(state, operation.purse_id, credit, "plan_credit", operation.credit, reference, reason, now_ms)
    return Bought(account.posted, refunded)


def unused_part(purse: PurseState, left: int, now_ms: int) -> int:
    """Return the part of a plan's price that a change of plan gives back: that of its unused credit or time.

    The smaller of both counts, rounded down: credit that would have expired soon is worth little, and time without
    credit nothing.
    """
    # A plan that was replaced before it began has no length, and nothing is left in it.
    length_ms = max(purse.ends_ms - purse.begins_ms, 1)
    remaining_ms = min(purse.ends_ms - now_ms, length_ms)
    return max(0, min(purse.price * left // purse.credit, purse.price * remaining_ms // length_ms))


def _expire_credit(state: LedgerState, operation: ExpireCredit) -> Result:
    purse = state.purses.get(operation.purse_id)
    if purse is None or purse.owner_id != operation.account_id:
        return UnknownAccountOrHold()
    if operation.now_ms < purse.ends_ms:
        return PlanRunning()
    # Every check is behind us.
    amount = _expire_available(state, operation.purse_id, purse, operation.now_ms)
    return Expired(amount, state.accounts[operation.purse_id].held)


def _expire_available(state: LedgerState, purse_id: int, purse: PurseState, now_ms: int) -> int:
    """Take all available credit of a purse and return how much that was."""
    credit = state.accounts[purse_id]
    amount = credit.available
    if amount:
        purse.expired += amount
        purse.dirty = True
        reference = f"expiry:{purse_id}:{credit.version + 1}"
        _external(state, purse_id, credit, "plan_expiry", -amount, reference, None, now_ms)
    return amount


def _external(
    state: LedgerState,
    account_id: int,
    account: AccountState,
    kind: str,
    change: int,
    external_ref: str,
    reason: str | None,
    now_ms: int,
) -> None:
    """Move money between funding and an account, which gains `change`."""
    account.posted += change
    account.dirty = True
    debit, credit = (FUNDING, account_id) if change > 0 else (account_id, FUNDING)
    _transfer(
        state,
        account,
        kind,
        debit=debit,
        credit=credit,
        amount=abs(change),
        now_ms=now_ms,
        external_ref=external_ref,
        reason=reason,
    )


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
