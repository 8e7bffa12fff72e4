"""Roles of an account's members, and what each may do. Routes and templates both ask `may`."""

from __future__ import annotations

from typing import Literal

Role = Literal["owner", "admin", "developer", "billing", "viewer"]
#: What a member may do in the account.
#:
#: - `read`: see usage, requests, keys, balance, invoices and members
#: - `use`: use the studio; create, change and revoke one's own keys
#: - `keys`: change and revoke the keys of all members
#: - `pay`: top up, buy plans, set automatic top-ups, the billing address and notices
#: - `team`: invite and remove members, set roles and budgets, read the team's log
#: - `own`: make, change and remove owners, hand the account over, delete it
Action = Literal["read", "use", "keys", "pay", "team", "own"]
ROLES: tuple[Role, ...] = ("owner", "admin", "developer", "billing", "viewer")
ACTIONS: tuple[Action, ...] = ("read", "use", "keys", "pay", "team", "own")
#: The one table of roles and actions.
ALLOWED: dict[Role, frozenset[Action]] = {
    "owner": frozenset(("read", "use", "keys", "pay", "team", "own")),
    "admin": frozenset(("read", "use", "keys", "pay", "team")),
    "developer": frozenset(("read", "use")),
    "billing": frozenset(("read", "pay")),
    "viewer": frozenset(("read",)),
}


def may(role: Role | None, action: Action) -> bool:
    """Return True if a member with this role may do this. None: the user is no member of any account."""
    return role is not None and action in ALLOWED[role]
