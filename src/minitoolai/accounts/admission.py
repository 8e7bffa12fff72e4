"""Whether a key may be used at all, for this, now and from there; and how often."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from minitoolai.accounts.rate_limits import Headers, Limits
from minitoolai.core.clock import Clock
from minitoolai.core.errors import AccessDenied, KeyForbids, RateLimited
from minitoolai.core.models import Caller


class Admission:
    """Asked once for every request that shows a key."""

    def __init__(self, clock: Clock, limits: Limits, *, trusted_proxies: tuple[str, ...] = ()) -> None:
        self._clock = clock
        self._limits = limits
        self._trusted = [ip_network(network) for network in trusted_proxies]

    def check(self, caller: Caller, peer: str, forwarded: str) -> None:
        """AccessDenied for a key that has expired, KeyForbids for an address that it is not meant for.

        `peer` is who is connected, `forwarded` what a proxy says of whom it speaks for (X-Forwarded-For).
        """
        rules = caller.rules
        if rules is None:
            return
        if rules.expires_ms is not None and rules.expires_ms <= self._clock.now_ms():
            raise AccessDenied("this key has expired", code="key_expired")
        if rules.allow_ip:
            address = self.origin(peer, forwarded)
            if not rules.allows_address(address):
                raise KeyForbids(f"this key may not be used from {address[:45]}", code="address_not_allowed")

    def count(self, caller: Caller) -> tuple[Headers, RateLimited | None]:
        """One request more: the headers that tell what is left, and the refusal where nothing is."""
        return self._limits.count(caller)

    def origin(self, peer: str, forwarded: str) -> str:
        """Who asks: the peer, or where that is a proxy of ours, the last address that no proxy of ours has added."""
        hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
        while hops and self._is_trusted(peer):
            peer = hops.pop()
        return peer

    def _is_trusted(self, address: str) -> bool:
        try:
            here = ip_address(address)
        except ValueError:
            return False
        return any(here in network for network in self._trusted)


def check_model(caller: Caller, model: str) -> None:
    """KeyForbids where the key is not meant for this model."""
    rules = caller.rules
    if rules is not None and rules.models and model not in rules.models:
        raise KeyForbids(
            f"this key may not use {model[:80]}; it is meant for {', '.join(rules.models)}",
            param="model",
            code="model_not_allowed",
        )
