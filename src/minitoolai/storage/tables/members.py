"""Rows of members, their budgets, invitations, and the team's log. The caller owns the transaction."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from minitoolai.core.models import Budget
from minitoolai.core.roles import Role
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.tables import accounts


class JoinedAccount(NamedTuple):
    """An account that a user belongs to, with what its pages show."""

    account_id: int
    role: Role
    account_name: str
    posted: int
    held: int
    suspended_ms: int | None
    suspended_reason: str | None
    price_group: str | None


class Member(NamedTuple):
    """A member of an account. `name` is the e-mail address."""

    user_id: int
    name: str
    role: Role
    created_ms: int
    budget_id: str | None
    has_second_factor: bool


class Invitation(NamedTuple):
    """An invitation that was not accepted yet. `inviter` is an e-mail address."""

    secret_hash: bytes
    account_id: int
    email: str
    role: Role
    invited_by: int
    created_ms: int
    expires_ms: int
    inviter: str
    account_name: str


class TeamBudget(msgspec.Struct, frozen=True):
    """A budget that members can be given."""

    id: str
    name: str
    daily: int | None
    monthly: int | None
    total: int | None

    @property
    def budget(self) -> Budget:
        return Budget(self.id, self.daily, self.monthly, self.total)


class MemberAction(NamedTuple):
    """Entry of the team's log: who did what. `member` is an e-mail address."""

    id: int
    user_id: int
    action: str
    subject: str | None
    note: str | None
    source: str | None
    created_ms: int
    member: str = ""


def memberships_of(connection: Connection, user_id: int) -> list[JoinedAccount]:
    """Return the accounts that a user belongs to: the one they opened first, then by number."""
    rows = connection.execute(
        "SELECT m.account_id, m.role, u.email, a.posted, a.held, u.suspended_ms, u.suspended_reason, u.price_group"
        " FROM members m JOIN users u ON u.account_id = m.account_id JOIN accounts a ON a.id = m.account_id"
        " WHERE m.user_id = ? AND u.deleted_ms IS NULL ORDER BY m.account_id <> m.user_id, m.account_id",
        (user_id,),
    )
    return [JoinedAccount(*row) for row in rows]


def members_of(connection: Connection, account_id: int) -> list[Member]:
    """Return the members of an account, the first one first."""
    rows = connection.execute(
        "SELECT m.user_id, u.email, m.role, m.created_ms, m.budget_id,"
        " EXISTS (SELECT 1 FROM second_factors f WHERE f.account_id = m.user_id)"
        " OR EXISTS (SELECT 1 FROM passkeys k WHERE k.user_id = m.user_id)"
        " FROM members m JOIN users u ON u.account_id = m.user_id WHERE m.account_id = ?"
        " ORDER BY m.created_ms, m.user_id",
        (account_id,),
    )
    return [Member(*row)._replace(has_second_factor=bool(row[5])) for row in rows]


def role_of(connection: Connection, account_id: int, user_id: int) -> Role | None:
    """Return the role of a user in an account. None: no member."""
    rows = connection.execute("SELECT role FROM members WHERE account_id = ? AND user_id = ?", (account_id, user_id))
    return rows[0][0] if rows else None


def owners_of(connection: Connection, account_id: int) -> list[int]:
    """Return the users who own an account."""
    rows = connection.execute(
        "SELECT user_id FROM members WHERE account_id = ? AND role = 'owner' ORDER BY user_id", (account_id,)
    )
    return [row[0] for row in rows]


def insert(connection: Connection, account_id: int, user_id: int, role: Role, now_ms: int) -> bool:
    """Add a member. Return False if the user is one already."""
    return bool(
        connection.execute_many(
            "INSERT INTO members (account_id, user_id, role, created_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(account_id, user_id, role, now_ms)],
        )
    )


def set_role(connection: Connection, account_id: int, user_id: int, role: Role) -> None:
    """Change the role of a member."""
    connection.execute("UPDATE members SET role = ? WHERE account_id = ? AND user_id = ?", (role, account_id, user_id))


def set_budget(connection: Connection, account_id: int, user_id: int, budget_id: str | None) -> None:
    """Give a member a budget, or none. The member's keys follow within a second."""
    connection.execute(
        "UPDATE members SET budget_id = ? WHERE account_id = ? AND user_id = ?", (budget_id, account_id, user_id)
    )
    connection.notify(accounts.KEYS_CHANNEL, f"{accounts.ACCOUNT_PREFIX}{account_id}")


def delete(connection: Connection, account_id: int, user_id: int, now_ms: int) -> bool:
    """Delete a member with their keys, invitations and saved prompts here. Return False if the user is no member."""
    deleted = connection.execute_many(
        "DELETE FROM members WHERE account_id = ? AND user_id = ?", [(account_id, user_id)]
    )
    connection.execute("DELETE FROM invitations WHERE account_id = ? AND invited_by = ?", (account_id, user_id))
    connection.execute("DELETE FROM saved_prompts WHERE account_id = ? AND user_id = ?", (account_id, user_id))
    revoke_keys_of(connection, account_id, user_id, now_ms)
    return bool(deleted)


def revoke_keys_of(connection: Connection, account_id: int, user_id: int, now_ms: int) -> int:
    """Revoke the keys of a member, also those of the studio, and return how many were valid."""
    rows = connection.execute(
        "SELECT id FROM api_keys WHERE account_id = ? AND member_id = ? AND revoked_ms IS NULL", (account_id, user_id)
    )
    return sum(accounts.revoke_key(connection, row[0], now_ms) for row in rows)


def delete_team(connection: Connection, account_id: int) -> None:
    """Delete all members of an account with their prompts, its budgets and invitations, and addresses in its log."""
    connection.execute(
        "DELETE FROM saved_prompts WHERE user_id IN (SELECT user_id FROM members WHERE account_id = ?)"
        " AND account_id = ?",
        (account_id, account_id),
    )
    for table in ("members", "invitations", "team_budgets"):
        connection.execute(f"DELETE FROM {table} WHERE account_id = ?", (account_id,))
    connection.execute(
        "UPDATE member_actions SET subject = NULL, note = NULL, source = NULL WHERE account_id = ?", (account_id,)
    )


# ── invitations ───────────────────────────────────────────────────────────────────────────────────────────

_INVITATIONS = (
    "SELECT i.secret_hash, i.account_id, i.email, i.role, i.invited_by, i.created_ms, i.expires_ms, p.email, u.email"
    " FROM invitations i JOIN users p ON p.account_id = i.invited_by JOIN users u ON u.account_id = i.account_id"
    " WHERE u.deleted_ms IS NULL AND"
)


def replace_invitation(
    connection: Connection,
    secret_hash: bytes,
    account_id: int,
    email: str,
    role: Role,
    invited_by: int,
    now_ms: int,
    expires_ms: int,
) -> None:
    """Insert an invitation in place of the one that the address may have, and delete expired ones."""
    connection.execute("DELETE FROM invitations WHERE expires_ms < ?", (now_ms,))
    delete_invitation(connection, account_id, email)
    connection.execute(
        "INSERT INTO invitations (secret_hash, account_id, email, role, invited_by, created_ms, expires_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (secret_hash, account_id, email, role, invited_by, now_ms, expires_ms),
    )


def find_invitation(connection: Connection, secret_hash: bytes, now_ms: int) -> Invitation | None:
    """Return the invitation of a link, or None if it is unknown, used or expired."""
    rows = connection.execute(f"{_INVITATIONS} i.secret_hash = ? AND i.expires_ms > ?", (secret_hash, now_ms))
    return _invitation(rows[0]) if rows else None


def invitations_of(connection: Connection, account_id: int, now_ms: int) -> list[Invitation]:
    """Return the invitations of an account that are still valid, oldest first."""
    rows = connection.execute(
        f"{_INVITATIONS} i.account_id = ? AND i.expires_ms > ? ORDER BY i.created_ms, i.email", (account_id, now_ms)
    )
    return [_invitation(row) for row in rows]


def _invitation(row: Row) -> Invitation:
    return Invitation(*row)._replace(secret_hash=bytes(row[0]))


def delete_invitation(connection: Connection, account_id: int, email: str) -> bool:
    """Delete the invitation of an address. Return False if there is none."""
    return bool(
        connection.execute_many("DELETE FROM invitations WHERE account_id = ? AND email = ?", [(account_id, email)])
    )


# ── budgets ───────────────────────────────────────────────────────────────────────────────────────────────


def budgets_of(connection: Connection, account_id: int) -> list[TeamBudget]:
    """Return the budgets of an account's members, by name."""
    rows = connection.execute(
        "SELECT id, name, daily, monthly, total FROM team_budgets WHERE account_id = ? ORDER BY name, id", (account_id,)
    )
    return [TeamBudget(*row) for row in rows]


def save_team_budget(connection: Connection, account_id: int, budget: TeamBudget, now_ms: int) -> None:
    """Insert a budget, or change its name and limits. They apply within a second."""
    connection.execute(
        "INSERT INTO team_budgets (id, account_id, name, daily, monthly, total, created_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, daily = excluded.daily,"
        " monthly = excluded.monthly, total = excluded.total",
        (budget.id, account_id, budget.name, budget.daily, budget.monthly, budget.total, now_ms),
    )
    connection.notify(accounts.KEYS_CHANNEL, f"{accounts.ACCOUNT_PREFIX}{account_id}")


def delete_team_budget(connection: Connection, account_id: int, budget_id: str) -> bool:
    """Delete a budget. Its members have none then. Return False if the account has no such budget."""
    connection.execute(
        "UPDATE members SET budget_id = NULL WHERE account_id = ? AND budget_id = ?", (account_id, budget_id)
    )
    connection.notify(accounts.KEYS_CHANNEL, f"{accounts.ACCOUNT_PREFIX}{account_id}")
    return bool(
        connection.execute_many("DELETE FROM team_budgets WHERE account_id = ? AND id = ?", [(account_id, budget_id)])
    )


# ── the team's log ────────────────────────────────────────────────────────────────────────────────────────


def insert_action(connection: Connection, account_id: int, action: MemberAction) -> None:
    """Append to the team's log, in the same commit as the action."""
    connection.execute(
        "INSERT INTO member_actions (id, account_id, user_id, action, subject, note, source, created_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (action.id, account_id, action.user_id, action.action, action.subject, action.note, action.source)
        + (action.created_ms,),
    )


def actions_of(connection: Connection, account_id: int, limit: int, below: int | None = None) -> list[MemberAction]:
    """Return the last entries of the team's log, newest first, with IDs under `below`."""
    rows = connection.execute(
        "SELECT t.id, t.user_id, t.action, t.subject, t.note, t.source, t.created_ms, u.email FROM member_actions t"
        " JOIN users u ON u.account_id = t.user_id WHERE t.account_id = ? AND t.id < ? ORDER BY t.id DESC LIMIT ?",
        (account_id, 2**63 - 1 if below is None else below, limit),
    )
    return [MemberAction(*row) for row in rows]
