"""Tables of archived days: their generations, holds and usage transfers are in files of the object store."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Table, Text

from minitoolai.storage.schema.base import Int64, metadata

#: Sums of one archived day. All generations that began before the end of the newest one are archived.
archived_days = Table(
    "archived_days",
    metadata,
    # Counted since 1970.
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("requests", Int64, nullable=False),
    Column("paid", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("shortfall", Int64, nullable=False),
    # SHA-256 of the manifest, which names that of the day archived before: a chain.
    Column("manifest", Text, nullable=False),
    Column("archived_ms", Int64, nullable=False),
    # When the last of its rows was deleted here.
    Column("removed_ms", Int64),
    sqlite_strict=True,
)

archived_parts = Table(
    "archived_parts",
    metadata,
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("part", Int64, primary_key=True, autoincrement=False),
    Column("sha256", Text, nullable=False),
    Column("bytes", Int64, nullable=False),
    Column("requests", Int64, nullable=False),
    sqlite_strict=True,
)

#: Which files hold an account's rows: by time, and by the numbers of its transfers.
archived_accounts = Table(
    "archived_accounts",
    metadata,
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("part", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("first_ms", Int64, nullable=False),
    Column("last_ms", Int64, nullable=False),
    Column("first_version", Int64),
    Column("last_version", Int64),
    Index("ix_archived_accounts_time", "account_id", "day", "part"),
    Index("ix_archived_accounts_version", "account_id", "last_version"),
    sqlite_strict=True,
)

#: The sum of an account's archived and deleted transfers, signed. The audit adds it to those that are left.
opening_balances = Table(
    "opening_balances",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("amount", Int64, nullable=False),
    sqlite_strict=True,
)

#: What archived and deleted holds took of a budget.
archived_budgets = Table(
    "archived_budgets",
    metadata,
    Column("budget_id", Text, primary_key=True),
    Column("used", Int64, nullable=False),
    sqlite_strict=True,
)
