"""Invite and remove members of an account, set their roles and budgets, hand an account over, switch accounts.

Every change checks the role of the member who makes it inside its own transaction, with the account locked, so that
two owners who remove each other at the same time cannot leave the account without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from minitoolai.accounts.addresses import email_forms
from minitoolai.accounts.users import Compose, Deletion, Users, Visitor, digest, erase_account, insert_session
from minitoolai.core.clock import Clock, random_text
from minitoolai.core.models import TEAM_PREFIX, Device, User
from minitoolai.core.money import short_dollars
from minitoolai.core.roles import Action, Role, may
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import accounts, members, users
from minitoolai.storage.tables.members import Invitation, JoinedAccount, Member, MemberAction, TeamBudget
from minitoolai.storage.writer import Writer

INVITATION_MS = 7 * 86_400_000
MAX_MEMBERS = 100
MAX_BUDGETS = 50
T = TypeVar("T")
#: Why a change was refused. `forbidden`: the role does not allow it. `unknown`: no such member, invitation or budget.
#: `last_owner`: the account would be left without an owner. `member`: the address is a member already. `full`: the
#: account has as many members or budgets as it may have. `address`: the invitation is for another address.
Refusal = Literal["forbidden", "unknown", "last_owner", "member", "full", "address"]


class Team(NamedTuple):
    """Members, invitations and budgets of an account."""

    members: list[Member]
    invitations: list[Invitation]
    budgets: list[TeamBudget]


class Actor(NamedTuple):
    """A signed-in user who changes something in the account where they work, and from where (`source`)."""

    user: User
    source: str


def read_team(connection: Connection, account_id: int, now_ms: int) -> Team:
    """Return members, invitations and budgets of an account."""
    return Team(
        members.members_of(connection, account_id),
        members.invitations_of(connection, account_id, now_ms),
        members.budgets_of(connection, account_id),
    )


def log_member_action(
    connection: Connection, clock: Clock, actor: Actor, action: str, subject: str | None = None, note: str | None = None
) -> None:
    """Append to the log of the account where the user works, in the transaction of the action."""
    user = actor.user
    entry = MemberAction(clock.new_id(), user.user_id, action, subject, note or None, actor.source, clock.now_ms())
    members.insert_action(connection, user.account_id, entry)


class Teams:
    """Change the members of accounts."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, people: Users) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._people = people

    async def _change(
        self, actor: Actor, action: Action, change: Callable[[Connection, Role], T | Refusal]
    ) -> T | Refusal:
        """Run `change(connection, role)` in a transaction if the member's present role allows the action."""
        account_id, user_id = actor.user.account_id, actor.user.user_id

        def run(connection: Connection) -> T | Refusal:
            connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
            role = members.role_of(connection, account_id, user_id)
            if role is None or not may(role, action):
                return "forbidden"
            return change(connection, role)

        result: T | Refusal = await self._writer.run(run)
        return result

    def _log(
        self, connection: Connection, actor: Actor, action: str, subject: str | None = None, note: str | None = None
    ) -> None:
        log_member_action(connection, self._clock, actor, action, subject, note)

    # ── invitations ───────────────────────────────────────────────────────────────────────────────────────

    async def invite(self, actor: Actor, email: str, role: Role, compose: Compose) -> Refusal | None:
        """Send an invitation to this address. An earlier one to the same address is no longer valid."""
        account_id, secret, now_ms = actor.user.account_id, random_text(32), self._clock.now_ms()

        def change(connection: Connection, own: Role) -> Refusal | None:
            if role == "owner" and not may(own, "own"):
                return "forbidden"
            team = read_team(connection, account_id, now_ms)
            known = accounts.find_email(connection, email_forms(email))
            if any(member.name == known for member in team.members):
                return "member"
            if len(team.members) + len(team.invitations) >= MAX_MEMBERS:
                return "full"
            members.replace_invitation(
                connection, digest(secret), account_id, email, role, actor.user.user_id, now_ms, now_ms + INVITATION_MS
            )
            self._log(connection, actor, "invite", email, role)
            return None

        refusal = await self._change(actor, "team", change)
        if refusal is None:
            self._people.send(compose("invitation", secret))
        return refusal

    async def withdraw(self, actor: Actor, email: str) -> Refusal | None:
        """Withdraw an invitation."""
        account_id = actor.user.account_id

        def change(connection: Connection, _: Role) -> Refusal | None:
            if not members.delete_invitation(connection, account_id, email):
                return "unknown"
            self._log(connection, actor, "withdraw", email)
            return None

        return await self._change(actor, "team", change)

    async def invitation(self, secret: str) -> Invitation | None:
        """Return the valid invitation of a link. Does not accept it, because mail programs open links too."""
        return await self._database.read_async(members.find_invitation, digest(secret), self._clock.now_ms())

    async def has_account(self, invitation: Invitation) -> bool:
        """Return True if the invited address can sign in."""
        return await self._database.read_async(accounts.find_email, email_forms(invitation.email)) is not None

    async def is_for(self, invitation: Invitation, user: User) -> bool:
        """Return True if the invitation was sent to this user, however the address is spelled."""
        return await self._database.read_async(_is_for, invitation, user)

    async def join(self, actor: Actor, secret: str, session_secret: str) -> Refusal | None:
        """Accept an invitation, and let this session work in its account. An invitation is accepted once."""
        now_ms, user = self._clock.now_ms(), actor.user

        def change(connection: Connection) -> Refusal | None:
            invitation = members.find_invitation(connection, digest(secret), now_ms)
            if invitation is None:
                return "unknown"
            if not _is_for(connection, invitation, user):
                return "address"
            self._accept(connection, invitation, user.user_id, actor.source)
            users.set_working_account(connection, digest(session_secret), invitation.account_id)
            return None

        refusal: Refusal | None = await self._writer.run(change)
        return refusal

    async def join_as_new_user(
        self, secret: str, password: str, language: str, device: Device, source: str
    ) -> Visitor | None:
        """Create the user of the invited address, accept the invitation and sign in. None if that is not possible.

        The link proves the mailbox, as that of a sign-up does. A new user gets an account of their own, too.
        """
        hashed, session, now_ms = await self._people.hash_password(password), random_text(32), self._clock.now_ms()

        def change(connection: Connection) -> User | None:
            invitation = members.find_invitation(connection, digest(secret), now_ms)
            if invitation is None or accounts.find_email(connection, email_forms(invitation.email)) is not None:
                return None
            user_id = accounts.create_account(connection, invitation.email, hashed, now_ms)
            users.set_language(connection, user_id, language)
            users.consume_links(connection, invitation.email)
            self._accept(connection, invitation, user_id, source)
            insert_session(connection, session, user_id, now_ms, device)
            users.set_working_account(connection, digest(session), invitation.account_id)
            found = users.find_user_of(connection, user_id)
            return found[0] if found else None

        user = await self._writer.run(change)
        return Visitor(user, session) if user else None

    def _accept(self, connection: Connection, invitation: Invitation, user_id: int, source: str) -> None:
        now_ms = self._clock.now_ms()
        members.delete_invitation(connection, invitation.account_id, invitation.email)
        if members.insert(connection, invitation.account_id, user_id, invitation.role, now_ms):
            entry = MemberAction(
                self._clock.new_id(), user_id, "join", invitation.email, invitation.role, source, now_ms
            )
            members.insert_action(connection, invitation.account_id, entry)

    # ── members ───────────────────────────────────────────────────────────────────────────────────────────

    async def change_member(self, actor: Actor, user_id: int, role: Role, budget_id: str | None) -> Refusal | None:
        """Set role and budget of a member. Keys of a role that may not use any are revoked."""
        account_id, now_ms = actor.user.account_id, self._clock.now_ms()

        def change(connection: Connection, own: Role) -> Refusal | None:
            found = _find_member(connection, account_id, user_id)
            if found is None or not _has_budget(connection, account_id, budget_id):
                return "unknown"
            if "owner" in (found.role, role) and found.role != role and not may(own, "own"):
                return "forbidden"
            if found.role == "owner" and role != "owner" and members.owners_of(connection, account_id) == [user_id]:
                return "last_owner"
            if role != found.role:
                members.set_role(connection, account_id, user_id, role)
                self._log(connection, actor, "role", found.name, role)
            if not may(role, "use"):
                members.revoke_keys_of(connection, account_id, user_id, now_ms)
            if budget_id != found.budget_id:
                members.set_budget(connection, account_id, user_id, budget_id)
                self._log(connection, actor, "budget", found.name, budget_id)
            return None

        return await self._change(actor, "team", change)

    async def remove(self, actor: Actor, user_id: int) -> Refusal | None:
        """Remove a member, revoke their keys, which ends their requests, and end their sessions in this account."""
        account_id = actor.user.account_id

        def change(connection: Connection, own: Role) -> Refusal | None:
            found = _find_member(connection, account_id, user_id)
            if found is None:
                return "unknown"
            if found.role == "owner" and not may(own, "own"):
                return "forbidden"
            return self._delete(connection, actor, found, "remove")

        return await self._change(actor, "team", change)

    async def leave(self, actor: Actor) -> Refusal | None:
        """Leave the account where the user works. Their sessions go on in another account."""
        account_id, user_id = actor.user.account_id, actor.user.user_id

        def change(connection: Connection, _: Role) -> Refusal | None:
            found = _find_member(connection, account_id, user_id)
            assert found is not None, "checked by _change"
            return self._delete(connection, actor, found, "leave")

        return await self._change(actor, "read", change)

    def _delete(
        self, connection: Connection, actor: Actor, member: Member, action: Literal["remove", "leave"]
    ) -> Refusal | None:
        account_id, now_ms = actor.user.account_id, self._clock.now_ms()
        if members.owners_of(connection, account_id) == [member.user_id]:
            return "last_owner"
        members.delete(connection, account_id, member.user_id, now_ms)
        if action == "remove":
            users.end_sessions_in(connection, account_id, member.user_id)
        self._log(connection, actor, action, member.name, member.role)
        return None

    async def hand_over(self, actor: Actor, user_id: int) -> Refusal | None:
        """Make another member the owner, and the present owner an admin."""
        account_id, own_id = actor.user.account_id, actor.user.user_id

        def change(connection: Connection, _: Role) -> Refusal | None:
            found = _find_member(connection, account_id, user_id)
            if found is None or user_id == own_id:
                return "unknown"
            members.set_role(connection, account_id, user_id, "owner")
            members.set_role(connection, account_id, own_id, "admin")
            self._log(connection, actor, "hand_over", found.name)
            return None

        return await self._change(actor, "own", change)

    async def delete_account(self, actor: Actor) -> Refusal | Deletion:
        """Erase the account where the user works, and which another user opened. The ledger stays."""
        account_id, now_ms = actor.user.account_id, self._clock.now_ms()

        def change(connection: Connection, _: Role) -> Deletion:
            result = erase_account(connection, account_id, now_ms)
            if result == "done":
                # After the erasure, which also removes addresses from the log.
                self._log(connection, actor._replace(source=""), "delete_account")
            return result

        return await self._change(actor, "own", change)

    async def memberships(self, user: User) -> list[JoinedAccount]:
        """Return the accounts that a user belongs to."""
        return await self._database.read_async(members.memberships_of, user.user_id)

    async def switch(self, user: User, session_secret: str, account_id: int) -> bool:
        """Let this session work in another account of the user. Return False if they are no member of it."""

        def change(connection: Connection) -> bool:
            is_member = members.role_of(connection, account_id, user.user_id) is not None
            if is_member:
                users.set_working_account(connection, digest(session_secret), account_id)
            return is_member

        return bool(await self._writer.run(change))

    # ── budgets ───────────────────────────────────────────────────────────────────────────────────────────

    async def save_budget(self, actor: Actor, budget: TeamBudget) -> Refusal | None:
        """Create a budget (`id` is empty), or change its name and limits."""
        account_id, now_ms = actor.user.account_id, self._clock.now_ms()

        def change(connection: Connection, _: Role) -> Refusal | None:
            known = members.budgets_of(connection, account_id)
            if budget.id and all(one.id != budget.id for one in known):
                return "unknown"
            if not budget.id and len(known) >= MAX_BUDGETS:
                return "full"
            saved = budget if budget.id else _with_id(budget, TEAM_PREFIX + random_text(12))
            members.save_team_budget(connection, account_id, saved, now_ms)
            self._log(connection, actor, "save_budget", budget.name, _limits(budget))
            return None

        return await self._change(actor, "team", change)

    async def delete_budget(self, actor: Actor, budget_id: str) -> Refusal | None:
        """Delete a budget. Its members have none then."""
        account_id = actor.user.account_id

        def change(connection: Connection, _: Role) -> Refusal | None:
            name = next((one.name for one in members.budgets_of(connection, account_id) if one.id == budget_id), None)
            if name is None or not members.delete_team_budget(connection, account_id, budget_id):
                return "unknown"
            self._log(connection, actor, "delete_budget", name)
            return None

        return await self._change(actor, "team", change)


def _is_for(connection: Connection, invitation: Invitation, user: User) -> bool:
    return accounts.find_account(connection, *email_forms(invitation.email)) == user.user_id


def _find_member(connection: Connection, account_id: int, user_id: int) -> Member | None:
    return next((one for one in members.members_of(connection, account_id) if one.user_id == user_id), None)


def _has_budget(connection: Connection, account_id: int, budget_id: str | None) -> bool:
    return budget_id is None or any(one.id == budget_id for one in members.budgets_of(connection, account_id))


def _with_id(budget: TeamBudget, budget_id: str) -> TeamBudget:
    return TeamBudget(budget_id, budget.name, budget.daily, budget.monthly, budget.total)


def _limits(budget: TeamBudget) -> str:
    amounts = (("day", budget.daily), ("month", budget.monthly), ("total", budget.total))
    return ", ".join(f"{period} ${short_dollars(nano)}" for period, nano in amounts if nano is not None)
