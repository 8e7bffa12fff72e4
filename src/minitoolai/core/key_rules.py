"""What a key may do: spend so much, until a moment, with some models, from some addresses, so often."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import msgspec

from minitoolai.core.budgets import Budget


class Rate(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much at most. Nothing, as None or 0, is no limit. `dollars_per_minute` in nano-dollars."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    dollars_per_minute: int | None = None
    #: Answers under way at once.
    streams: int | None = None


class KeyRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rules of one key. Budgets in nano-dollars, counted in UTC; nothing given is nothing forbidden."""

    budget_daily: int | None = None
    budget_monthly: int | None = None
    budget_total: int | None = None
    expires_ms: int | None = None
    models: tuple[str, ...] = ()
    #: Addresses and networks that it may be used from.
    allow_ip: tuple[str, ...] = ()
    rate: Rate = Rate()
    #: Made by a page of the portal for itself: it is not among the keys that the account's people see.
    for_pages: bool = False

    def budget(self, budget_id: str) -> Budget | None:
        """What may be spent; None where there is no limit to it."""
        if self.budget_daily is self.budget_monthly is self.budget_total is None:
            return None
        return Budget(budget_id, self.budget_daily, self.budget_monthly, self.budget_total)

    def allows_address(self, address: str) -> bool:
        """Whether it may be used from there; an address that cannot be read is nowhere."""
        if not self.allow_ip:
            return True
        try:
            here = ip_address(address)
        except ValueError:
            return False
        # On a socket for both families an IPv4 caller arrives as ::ffff:192.0.2.1.
        here = getattr(here, "ipv4_mapped", None) or here
        return any(here in ip_network(network) for network in self.allow_ip)


FREE = KeyRules()
