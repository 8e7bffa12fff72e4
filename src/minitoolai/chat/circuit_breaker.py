"""Stop sending requests to an upstream that fails (circuit breaker), without letting one customer block it for all.

Failures are of three kinds:

- No request can cause them (`EngineUnavailable`: no connection, no name, no TLS, the operator's key rejected). The
  circuit opens at the first one.
- One request might cause them (a 5xx, a timeout, an unreadable response). They count by account: the upstream is
  the likely cause only if several accounts fail, and at least half of those with recent requests.
- They say nothing about the upstream (it refused the request, or the request exceeded a limit). They never open it.

Every process keeps its own state, from its own requests. All times are from the steady clock.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from typing import Literal, NamedTuple

from minitoolai.core.errors import (
    ContextExceeded,
    EngineError,
    EngineFull,
    EngineRateLimited,
    EngineRefused,
    EngineUnavailable,
    Overloaded,
)

log = logging.getLogger(__name__)

#: Each failed probe doubles the cooldown, up to this multiple of the first one.
MAX_COOLDOWN_FACTOR = 16
#: Retry-After for other requests while a probe is in flight.
PROBE_WAIT_S = 1.0
#: Longest time that an upstream's Retry-After is obeyed.
MAX_RETRY_AFTER_S = 300
#: Accounts and failures count for this long.
WINDOW_S = 60.0
#: The circuit opens for all accounts if at least this many fail.
MIN_ACCOUNTS = 3
#: If fewer accounts sent requests, all of them must fail, with at least this many failed calls in total.
MIN_CALLS = 10
#: The circuit then opens only for accounts with at least this many failures in a row.
MIN_OWN_FAILURES = 2
#: The circuit opens for all accounts only if the last call of at least one in SHARE of them failed.
SHARE = 2
#: After the cooldown, accounts that did not cause it may probe for this long before those that did.
HEADSTART_S = 5.0
#: Forget old accounts when more than this many are known.
MAX_ACCOUNTS = 10_000
_NO_ACCOUNTS: Set[int] = frozenset()


class BreakerState(NamedTuple):
    """What the operator sees of a circuit breaker. Times are seconds from now."""

    state: Literal["closed", "open", "half_open"]
    #: Until the next probe, while it is open.
    wait_s: float
    #: Accounts for which it is open; None: all.
    accounts: int | None
    #: Model → seconds for which the upstream is rate limiting it.
    limited: dict[str, float]


class CircuitBreaker:
    """Circuit breaker for one upstream in this process.

    Open for a cooldown, then half-open: one request probes the upstream, and closes or reopens the circuit. If fewer
    than three accounts caused it, it is open only for them. Also obeys Retry-After, separately for each model.
    """

    __slots__ = (
        "_causes",
        "_cooldown_s",
        "_failed_probes",
        "_failure_threshold",
        "_forgot_s",
        "_is_for_all",
        "_is_probing",
        "_open_until_s",
        "_opened_s",
        "_others_refused",
        "_rate_limited_until_s",
        "failing",
        "is_closed",
        "name",
        "seen",
    )

    def __init__(self, name: str = "", *, failure_threshold: int, cooldown_s: float) -> None:
        """Create a closed circuit. `name` is the engine's, for the log.

        `failure_threshold` is the least number of failures that open it; 0: never.
        """
        self.name = name
        self._failure_threshold = failure_threshold
        self._cooldown_s = cooldown_s
        self._failed_probes = 0
        self._open_until_s: float | None = None
        self._opened_s = self._forgot_s = 0.0
        #: The accounts that caused the failures, and whether the circuit is open for all others as well.
        self._causes = _NO_ACCOUNTS
        self._is_for_all = False
        self._is_probing = False
        #: An account that did not cause the failures was refused while the circuit was open.
        self._others_refused = False
        self._rate_limited_until_s: dict[str, float] = {}
        #: When each account last sent a request.
        self.seen: dict[int, float] = {}
        #: Accounts with a failed last call: the number of failures in a row, and the time of the last.
        self.failing: dict[int, tuple[int, float]] = {}
        #: True if requests are allowed for every model. Checked first, so that the usual case takes no other check.
        self.is_closed = True

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────

    def wait_s(self, model: str, account_id: int, now_s: float) -> float:
        """Return the seconds until this account may use this model; 0 if it may now."""
        if self.is_closed:
            return 0.0
        rate_limit_s = self._rate_limited_until_s.get(model, now_s) - now_s
        if rate_limit_s < 0:
            del self._rate_limited_until_s[model]
            self._update_is_closed()
        return max(0.0, rate_limit_s, self._cooldown_left_s(account_id, now_s))

    def _cooldown_left_s(self, account_id: int, now_s: float) -> float:
        if self._open_until_s is None or not self._is_open_for(account_id):
            return 0.0
        is_cause = account_id in self._causes
        if now_s < self._open_until_s:
            self._others_refused = self._others_refused or not is_cause
            return self._open_until_s - now_s
        if self._is_probing:
            return PROBE_WAIT_S
        if is_cause and self._others_refused:
            # Its next request may fail like its last ones even if the upstream has recovered.
            return max(0.0, self._open_until_s + min(self._cooldown_s, HEADSTART_S) - now_s)
        return 0.0

    def is_limited(self, model: str, now_s: float) -> bool:
        """Return True if the upstream is rate limiting this model, as opposed to failing."""
        return self._rate_limited_until_s.get(model, 0.0) > now_s

    def is_resting(self, now_s: float) -> bool:
        """Return True if the requests of all accounts are refused now because of failures.

        Also True if the circuit is open only for the accounts that failed, and no other account sends requests.
        """
        if self._open_until_s is None or (now_s >= self._open_until_s and not self._is_probing):
            return False
        if self._is_for_all:
            return True
        since_s = now_s - WINDOW_S
        return all(account in self._causes for account, at_s in self.seen.items() if at_s > since_s)

    def describe(self, now_s: float) -> BreakerState:
        """Return the state for the operator."""
        limited = {model: end_s - now_s for model, end_s in self._rate_limited_until_s.items() if end_s > now_s}
        accounts = None if self._is_for_all else len(self._causes)
        if self._open_until_s is None:
            return BreakerState("closed", 0.0, 0, limited)
        if now_s < self._open_until_s:
            return BreakerState("open", self._open_until_s - now_s, accounts, limited)
        return BreakerState("half_open", 0.0, accounts, limited)

    def on_request(self, account_id: int, now_s: float) -> bool:
        """Record that a request is sent, while the circuit is not closed. Return True if it is the probe."""
        self.seen[account_id] = now_s
        if not self._is_open_for(account_id):
            return False
        self._is_probing = True
        return True

    # ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────────

    def on_success(self, account_id: int, started_s: float, *, is_probe: bool) -> None:
        """Record a complete response: close the circuit, unless the request was sent before it opened."""
        self.failing.pop(account_id, None)
        if self._open_until_s is not None and (is_probe or started_s >= self._opened_s):
            log.warning("%s has recovered; its circuit is closed", self.name)
            self._open_until_s, self._is_probing, self._failed_probes = None, False, 0
            self._is_for_all = False
            self.failing.clear()
        elif started_s - self._forgot_s > WINDOW_S:
            # Old failures would keep successes on this path.
            self.forget_old(started_s)
        if not self.is_closed:
            self._update_is_closed()

    def on_cancel(self, *, is_probe: bool) -> None:
        """Record a request that proves nothing about the upstream, such as one cancelled by the client."""
        if is_probe:
            self._is_probing = False

    def on_failure(
        self, error: Exception, model: str, account_id: int, started_s: float, now_s: float, *, is_probe: bool
    ) -> None:
        """Record a failed attempt. An error caused by the request itself counts as a success of the upstream."""
        if isinstance(error, EngineRefused | ContextExceeded):
            self.on_success(account_id, started_s, is_probe=is_probe)
        elif (
            self._failure_threshold == 0
            or isinstance(error, EngineFull)
            or not isinstance(error, EngineError | Overloaded)
        ):
            self.on_cancel(is_probe=is_probe)
        elif isinstance(error, EngineRateLimited):
            self.on_cancel(is_probe=is_probe)
            if error.rests_model and not error.is_size:
                self.is_closed = False
                wait_s = min(error.retry_after_s or PROBE_WAIT_S, MAX_RETRY_AFTER_S)
                self._rate_limited_until_s[model] = now_s + wait_s
        elif is_probe:
            self._failed_probes += 1
            self._count_failure(account_id, now_s)
            self._open(now_s, self._causes, is_for_all=self._is_for_all or isinstance(error, EngineUnavailable))
        elif started_s <= self._opened_s and self._is_open_for(account_id):
            # Sent before the circuit opened, so it adds no information.
            return
        elif isinstance(error, EngineUnavailable):
            self._open(now_s, _NO_ACCOUNTS, is_for_all=True)
        else:
            self._count_failure(account_id, now_s)
            self._open_if_faulty(now_s)

    def forget_old(self, now_s: float) -> None:
        """Forget the accounts and failures that no longer count."""
        self._forgot_s, since_s = now_s, now_s - WINDOW_S
        self.seen = {account: at_s for account, at_s in self.seen.items() if at_s > since_s}
        self.failing = {account: run for account, run in self.failing.items() if run[1] > since_s}
        if len(self.seen) > MAX_ACCOUNTS // 2:
            # Too many recent accounts to search them at each request.
            self.seen.clear()

    def _count_failure(self, account_id: int, now_s: float) -> None:
        self.failing[account_id] = (self.failing.get(account_id, (0, 0.0))[0] + 1, now_s)

    def _open_if_faulty(self, now_s: float) -> None:
        """Open the circuit if the upstream is the likely cause of the failures of the last minute."""
        self.forget_old(now_s)
        failing = self.failing
        accounts = len(self.seen.keys() | failing.keys())
        failures = sum(count for count, _ in failing.values())
        if failures < self._failure_threshold:
            return
        if len(failing) >= MIN_ACCOUNTS:
            if len(failing) * SHARE >= accounts:
                self._open(now_s, frozenset(failing), is_for_all=True)
        elif len(failing) == accounts and failures >= MIN_CALLS and not self._is_for_all:
            causes = frozenset(account for account, (count, _) in failing.items() if count >= MIN_OWN_FAILURES)
            self._open(now_s, causes, is_for_all=False)

    def _is_open_for(self, account_id: int) -> bool:
        return self._open_until_s is not None and (self._is_for_all or account_id in self._causes)

    def _update_is_closed(self) -> None:
        self.is_closed = self._open_until_s is None and not self._rate_limited_until_s

    def _open(self, now_s: float, causes: Set[int], *, is_for_all: bool) -> None:
        """Open the circuit. Only the first opening is logged, not the failed probes after it, up to the recovery."""
        if self._open_until_s is None or is_for_all != self._is_for_all:
            whom = "every account" if is_for_all else f"{len(causes)} accounts"
            log.warning("%s fails; its circuit is open for %s, for %g s at first", self.name, whom, self._cooldown_s)
        self._open_until_s = now_s + self._cooldown_s * min(2**self._failed_probes, MAX_COOLDOWN_FACTOR)
        self._opened_s = now_s
        self._causes, self._is_for_all = causes, is_for_all
        self._is_probing = self._others_refused = self.is_closed = False
