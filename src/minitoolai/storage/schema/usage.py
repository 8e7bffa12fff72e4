"""Tables of daily sums: usage, traffic and the closed days of the audit."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, LargeBinary, Table, Text

from minitoolai.storage.schema.base import Int64, metadata

#: Sums of the settled generations, written in the transaction of each settle. `day` counts UTC days since 1970 and is
#: the day on which the generations began. Without a row ID, a settle changes one page.
usage_days = Table(
    "usage_days",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("requests", Int64, nullable=False),
    Column("input_units", Int64, nullable=False),
    Column("output_units", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    # The known upstream costs.
    Column("purchase", Int64, nullable=False),
    Index("ix_usage_days_day", "day"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: Of the rows of `usage_days`, the tokens and fees that have a price of their own. Most requests have none.
usage_buckets = Table(
    "usage_buckets",
    metadata,
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("bucket", Text, primary_key=True),
    Column("units", Int64, nullable=False),
    # Nano-dollars, rounded down for each request.
    Column("cost", Int64, nullable=False),
    Index("ix_usage_buckets_day", "day"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: Sums of the generations for dashboards, by engine and with failures and times. Written by a background task after the
#: generations have ended (storage/insight/traffic.py), never by a request.
traffic_days = Table(
    "traffic_days",
    metadata,
    # 0 stands for all accounts. No foreign key: the task that writes it must not wait for locks of accounts.
    Column("account_id", Int64, primary_key=True, autoincrement=False),
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("engine", Text, primary_key=True),
    Column("requests", Int64, nullable=False),
    Column("failures", Int64, nullable=False),
    # `known` is the part of `cost` with a known upstream cost, which is `purchase`.
    Column("cost", Int64, nullable=False),
    Column("purchase", Int64, nullable=False),
    Column("known", Int64, nullable=False, server_default="0"),
    # Times are in milliseconds: of the `timed` requests that succeeded, and of the `streamed` ones with a first token.
    Column("timed", Int64, nullable=False),
    Column("duration_ms", Int64, nullable=False),
    Column("streamed", Int64, nullable=False),
    Column("first_token_ms", Int64, nullable=False),
    # Output tokens of the streamed chats that succeeded, and the time from their first token to their end.
    Column("streamed_tokens", Int64, nullable=False, server_default="0"),
    Column("streaming_ms", Int64, nullable=False, server_default="0"),
    Index("ix_traffic_days_day", "day", "account_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

#: One row for each day that is closed: the sums of its generations, and a hash of its rows and of the hash before it.
audited_days = Table(
    "audited_days",
    metadata,
    Column("day", Int64, primary_key=True, autoincrement=False),
    Column("requests", Int64, nullable=False),
    Column("input_units", Int64, nullable=False),
    Column("output_units", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    Column("purchase", Int64, nullable=False),
    # Credits and reversals, as they changed the customers' balances.
    Column("external", Int64, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("audited_ms", Int64, nullable=False),
    sqlite_strict=True,
)

#: What budgets counted in closed days, so that the audit need not read them again.
audited_budgets = Table(
    "audited_budgets",
    metadata,
    Column("budget_id", Text, primary_key=True),
    Column("settled", Int64, nullable=False),
    sqlite_strict=True,
)
