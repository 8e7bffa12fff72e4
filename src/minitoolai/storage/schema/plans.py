"""Tables of plans: purses and coupons."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text

from minitoolai.storage.schema.base import Int64, metadata, one_of, partial_index

#: Credit of plans. A purse is an account of its own (same ID), which pays for its owner's requests until its end. Its
#: price and its limits are those at the time of purchase.
purses = Table(
    "purses",
    metadata,
    Column("id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("owner_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("plan", Text, nullable=False),
    Column("price", Int64, nullable=False),
    Column("credit", Int64, nullable=False),
    # The most that may be spent in one window of each kind. NULL: no limit.
    Column("window_5h", Int64),
    Column("window_week", Int64),
    Column("window_month", Int64),
    Column("period", Text, nullable=False),
    Column("begins_ms", Int64, nullable=False),
    Column("ends_ms", Int64, nullable=False),
    # Credit that was taken back at the end.
    Column("expired", Int64, nullable=False, server_default="0"),
    # Closed: it has ended, and nothing is left or held in it.
    Column("state", Text, nullable=False, server_default="open"),
    # What happens at its end: nothing, the next period is paid from the balance, or a payment provider's subscription
    # starts it.
    Column("renewal", Text, nullable=False, server_default="none"),
    # Since when the balance does not suffice for the renewal.
    Column("unpaid_ms", Int64),
    # The reference of its transfers, under which it was bought once.
    Column("reference", Text, nullable=False, unique=True),
    Column("created_ms", Int64, nullable=False),
    CheckConstraint("price >= 0", name="price_not_negative"),
    CheckConstraint("credit > 0", name="credit_positive"),
    CheckConstraint("expired BETWEEN 0 AND credit", name="expired_within_credit"),
    CheckConstraint("ends_ms >= begins_ms", name="ends_after_beginning"),
    CheckConstraint("id <> owner_id", name="not_its_own_owner"),
    one_of("period", "week", "month", "year"),
    one_of("state", "open", "closed"),
    one_of("renewal", "none", "balance", "provider"),
    Index("ix_purses_owner", "owner_id", "id"),
    partial_index("ix_purses_open", "ends_ms", where="state = 'open'"),
    sqlite_strict=True,
)

#: What the holds of a purse promise and took in each window, of open purses only.
purse_windows = Table(
    "purse_windows",
    metadata,
    # Purse, kind and number of the window together, see core/plans.py.
    Column("id", Text, primary_key=True),
    Column("purse_id", Int64, ForeignKey("purses.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("used", Int64, nullable=False),
    CheckConstraint("used >= 0", name="used_not_negative"),
    sqlite_strict=True,
)

coupons = Table(
    "coupons",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    # As customers type it, in upper case without blanks and hyphens.
    Column("code", Text, nullable=False, unique=True),
    # Percent off the price of a plan, or an amount of credit.
    Column("percent", Integer),
    Column("amount", Int64),
    # At most so many accounts may use it, each once.
    Column("uses", Int64, nullable=False),
    Column("used", Int64, nullable=False, server_default="0"),
    Column("note", Text),
    Column("created_ms", Int64, nullable=False),
    Column("expires_ms", Int64),
    Column("cancelled_ms", Int64),
    CheckConstraint("(percent IS NULL) <> (amount IS NULL)", name="percent_or_amount"),
    CheckConstraint("percent IS NULL OR percent BETWEEN 1 AND 100", name="percent_within_100"),
    CheckConstraint("amount IS NULL OR amount > 0", name="amount_positive"),
    CheckConstraint("used BETWEEN 0 AND uses", name="used_within_uses"),
    Index("ix_coupons_created", "created_ms", "id"),
    sqlite_strict=True,
)

coupon_uses = Table(
    "coupon_uses",
    metadata,
    Column("coupon_id", Int64, ForeignKey("coupons.id"), primary_key=True, autoincrement=False),
    Column("account_id", Int64, ForeignKey("accounts.id"), primary_key=True, autoincrement=False),
    Column("used_ms", Int64, nullable=False),
    # Its value to the account, and the reference of the transfer.
    Column("amount", Int64, nullable=False),
    Column("reference", Text, nullable=False),
    Index("ix_coupon_uses_account", "account_id", "coupon_id"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
