"""Limit by address how many requests without an API key may fail: too large, not JSON, or with a wrong signature.

A request that succeeds is never limited: a customer's server may poll a hundred jobs from one address, each with the
signature that entitles it. So nothing is refused in advance; beyond the limit, a failure is answered with a 429.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.accounts.rate_limits import Limit, Throttle, network_of
from minitoolai.core.clock import Clock
from minitoolai.core.errors import Gone, InvalidRequest, RateLimited, ServiceError
from minitoolai.http.asgi import header

#: Share of the requests per minute of an account that may fail per minute and address.
SHARE: Final = 10
LEAST: Final = 10


class FailureLimits:
    """Counts of failed requests by IPv4 address or IPv6 /64, in memory, per process."""

    def __init__(self, clock: Clock, keys: KeyVerifier, requests_per_minute: int) -> None:
        """`requests_per_minute` of an account; 0: no limit."""
        self._limit = Limit(max(LEAST, requests_per_minute // SHARE), 60) if requests_per_minute else None
        self._throttle = Throttle(clock)
        self._keys = keys

    def wait_s(self, scope: Mapping[str, Any]) -> int:
        """Count a failed request. Return 0, or if there were too many the seconds until the next may fail."""
        if self._limit is None:
            return 0
        peer = (scope.get("client") or ("", 0))[0]
        policy = self._keys.policy
        address = policy.client_address(peer, header(scope, b"x-forwarded-for").decode("latin-1")) if policy else peer
        return self._throttle.wait_s(network_of(address), self._limit)

    def error_for(self, scope: Mapping[str, Any], error: ServiceError) -> ServiceError:
        """Return the error to answer a request without a key that failed: this one, or RateLimited."""
        # An expired link or a removed image had a right signature.
        if not isinstance(error, InvalidRequest) or isinstance(error, Gone):
            return error
        wait_s = self.wait_s(scope)
        if not wait_s:
            return error
        return RateLimited(
            f"Too many requests from your address failed. The last reason: {error.message} Try again in {wait_s} s.",
            retry_after_s=wait_s,
        )
