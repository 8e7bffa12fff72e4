"""Tables of accounts: API keys, members, invitations and budgets of teams."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, Table, Text

from minitoolai.storage.schema.base import Int64, metadata, one_of

accounts = Table(
    "accounts",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("posted", Int64, nullable=False, server_default="0"),
    Column("held", Int64, nullable=False, server_default="0"),
    Column("version", Int64, nullable=False, server_default="0"),
    Column("is_system", Integer, nullable=False, server_default="0"),
    Column("created_ms", Int64, nullable=False),
    # The end of its last plan, while it has a purse that is not closed. Read with the balance, so that requests of
    # accounts without a plan need no other look-up.
    Column("purse_until_ms", Int64),
    # Changes with every write to its purses that are not closed, so that a writer knows whether those that it
    # remembers are still true (decision 0033).
    Column("purse_stamp", Int64),
    CheckConstraint("held >= 0", name="held_not_negative"),
    CheckConstraint("is_system = 1 OR posted - held >= 0", name="never_below_zero"),
    CheckConstraint("is_system IN (0, 1)", name="is_system_is_a_flag"),
    # The balance of a system account is derived from its transfers: a stored balance would be a hot row.
    CheckConstraint("is_system = 0 OR (posted = 0 AND held = 0)", name="system_balance_is_derived"),
    sqlite_strict=True,
)

#: Members of accounts. `user_id` is the number of the account that the user opened at the sign-up: it never changes,
#: also for users who have left that account.
members = Table(
    "members",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("user_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("role", Text, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("budget_id", Text, ForeignKey("team_budgets.id")),
    one_of("role", "owner", "admin", "developer", "billing", "viewer"),
    Index("ix_members_user_id", "user_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: Budgets of members, in nano-dollars. Members with the same budget share it. Spending is in `key_spending`.
team_budgets = Table(
    "team_budgets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("daily", Int64),
    Column("monthly", Int64),
    Column("total", Int64),
    Column("created_ms", Int64, nullable=False),
    sqlite_strict=True,
)

#: Invitations that were not accepted yet. Only the hash of the link's secret is stored.
invitations = Table(
    "invitations",
    metadata,
    Column("secret_hash", LargeBinary, primary_key=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("email", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("invited_by", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("expires_ms", Int64, nullable=False, index=True),
    one_of("role", "owner", "admin", "developer", "billing", "viewer"),
    Index("ix_invitations_account_id", "account_id", "email"),
    sqlite_strict=True,
)

#: What members did to the team, written in the same commit. Rows are never changed.
member_actions = Table(
    "member_actions",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("user_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("action", Text, nullable=False),
    # The member, key, budget or address that it was done to, and a role or name.
    Column("subject", Text),
    Column("note", Text),
    Column("source", Text),
    Column("created_ms", Int64, nullable=False),
    Index("ix_member_actions_account", "account_id", "id"),
    sqlite_strict=True,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("secret_hmac", LargeBinary, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("revoked_ms", Int64),
    # `rules`: KeyRules as JSON (core/models.py). `family`: the rotation group, which shares limits and budgets.
    Column("rules", Text),
    Column("family", Text),
    # The member who owns it. NULL: made by the command line, for the account.
    Column("member_id", Int64),
    sqlite_strict=True,
)

# A separate table, so that verifying a key and recording its last use never wait for each other.
key_uses = Table(
    "key_uses",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("last_used_ms", Int64, nullable=False),
    sqlite_strict=True,
)
