"""Circuit breaker of one upstream: stop asking while it fails, without letting one customer stop it for all.

Failures are of three kinds:

- No request can cause them (`EngineUnavailable`: no connection, no name, no TLS, the operator's key rejected). The
  circuit opens at the first one.
- One request might cause them (a 5xx, silence, an unreadable response). They count by account: only when several
  accounts fail, and most of those that are seen, is the upstream the likely cause.
- They say nothing about the upstream (the request was refused, or was too much at once). They open nothing.

Every process keeps its own state, from its own requests. All times are from the steady clock.
"""

from __future__ import annotations

from collections.abc import Set

from minitoolai.core.errors import (
    ContextExceeded,
    EngineError,
    EngineFull,
    EngineRateLimited,
    EngineRefused,
    EngineUnavailable,
    Overloaded,
)

#: Each failed probe doubles the cooldown, up to this multiple of the first one.
MAX_COOLDOWN_FACTOR = 16
#: While a probe is in flight, other requests must wait this long.
PROBE_WAIT_S = 1.0
#: Longest time that an upstream's Retry-After is obeyed.
MAX_RETRY_AFTER_S = 300
#: Accounts and failures count for this long.
WINDOW_S = 60.0
#: As many accounts must fail for the circuit to open for all.
MIN_ACCOUNTS = 3
#: If fewer accounts are seen, all of them must fail, with at least this many calls in a row that failed.
MIN_CALLS = 10
#: An account that is one of them rests only if it failed more often than once.
MIN_OWN_FAILURES = 2
#: The circuit opens for all only if the last call of at least one in this many accounts failed.
SHARE = 2
#: After the cooldown, accounts that did not cause it may probe for this long before those that did.
HEADSTART_S = 5.0
#: Forget old accounts when more than this many are known.
MAX_ACCOUNTS = 10_000
_NOBODY: Set[int] = frozenset()


class CircuitBreaker:
    """Circuit breaker for one upstream in this process.

    Open for a cooldown, then half-open: one request probes the upstream, and closes or reopens the circuit. If fewer
    than three accounts caused it, it is open for these only. Also obeys Retry-After, separately for each model.
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
        "_others_ask",
        "_rate_limited_until_s",
        "failing",
        "is_closed",
        "seen",
    )

    def __init__(self, *, failure_threshold: int, cooldown_s: float) -> None:
        """Create a closed circuit. `failure_threshold` is the least number of failures that open it; 0: never."""
        self._failure_threshold = failure_threshold
        self._cooldown_s = cooldown_s
        self._failed_probes = 0
        self._open_until_s: float | None = None
        self._opened_s = self._forgot_s = 0.0
        #: The accounts whose failures opened the circuit, and whether it is open for all others as well.
        self._causes = _NOBODY
        self._is_for_all = False
        self._is_probing = False
        #: An account that did not cause the failures was refused while the circuit was open.
        self._others_ask = False
        self._rate_limited_until_s: dict[str, float] = {}
        #: When each account was last served, and the accounts whose last call failed: failures in a row and the last.
        self.seen: dict[int, float] = {}
        self.failing: dict[int, tuple[int, float]] = {}
        #: True if requests are allowed for every model. Checked first, so that the usual case costs nothing more.
        self.is_closed = True

    # ── asking ────────────────────────────────────────────────────────────────────────────────────────────────

    def wait_s(self, model: str, account_id: int, now_s: float) -> float:
        """Return the seconds until this account may ask for this model; 0 if it may now."""
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
            self._others_ask = self._others_ask or not is_cause
            return self._open_until_s - now_s
        if self._is_probing:
            return PROBE_WAIT_S
        if is_cause and self._others_ask:
            # Its next request may fail like the last ones, whatever the state of the upstream.
            return max(0.0, self._open_until_s + min(self._cooldown_s, HEADSTART_S) - now_s)
        return 0.0

    def is_limited(self, model: str, now_s: float) -> bool:
        """Return True if the upstream is rate limiting this model, as opposed to failing."""
        return self._rate_limited_until_s.get(model, 0.0) > now_s

    def on_request(self, account_id: int, now_s: float) -> bool:
        """Record that a request is sent, while the circuit is not closed. Return True if it is the probe."""
        self.seen[account_id] = now_s
        if not self._is_open_for(account_id):
            return False
        self._is_probing = True
        return True

    # ── what came of it ───────────────────────────────────────────────────────────────────────────────────────

    def on_success(self, account_id: int, started_s: float, *, is_probe: bool) -> None:
        """Record a complete response: close the circuit, unless the request was sent before it opened."""
        self.failing.pop(account_id, None)
        if self._open_until_s is not None and (is_probe or started_s >= self._opened_s):
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
            # Sent before the circuit opened: nothing new.
            return
        elif isinstance(error, EngineUnavailable):
            self._open(now_s, _NOBODY, is_for_all=True)
        else:
            self._count_failure(account_id, now_s)
            self._judge(now_s)

    def forget_old(self, now_s: float) -> None:
        """Forget the accounts and failures that no longer count."""
        self._forgot_s, since_s = now_s, now_s - WINDOW_S
        self.seen = {account: at_s for account, at_s in self.seen.items() if at_s > since_s}
        self.failing = {account: run for account, run in self.failing.items() if run[1] > since_s}
        if len(self.seen) > MAX_ACCOUNTS // 2:
            # So many in a minute: do not look through all of them at each request.
            self.seen.clear()

    def _count_failure(self, account_id: int, now_s: float) -> None:
        self.failing[account_id] = (self.failing.get(account_id, (0, 0.0))[0] + 1, now_s)

    def _judge(self, now_s: float) -> None:
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
        self._open_until_s = now_s + self._cooldown_s * min(2**self._failed_probes, MAX_COOLDOWN_FACTOR)
        self._opened_s = now_s
        self._causes, self._is_for_all = causes, is_for_all
        self._is_probing = self._others_ask = self.is_closed = False
