"""Tables of the installation: shared limits, the audit log of admins and facts by name."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Table, Text

from minitoolai.storage.schema.base import Int64, metadata

#: Token buckets that processes share: when each will be full again, on the database server's clock.
shared_limits = Table(
    "shared_limits",
    metadata,
    Column("name", Text, primary_key=True),
    Column("full_us", Int64, nullable=False),
    Index("ix_shared_limits_full", "full_us"),
    sqlite_strict=True,
)

#: Requests in progress that each process may have of a limit that all share, until its lease ends. Unlogged as well.
shared_slots = Table(
    "shared_slots",
    metadata,
    Column("name", Text, primary_key=True),
    Column("process", Text, primary_key=True),
    Column("held", Int64, nullable=False),
    Column("until_ms", Int64, nullable=False),
    Index("ix_shared_slots_until_ms", "until_ms"),
    sqlite_strict=True,
)

#: Audit log: actions of admins in the portal and of the command line, written in the same commit. Rows are never
#: changed.
admin_actions = Table(
    "admin_actions",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    # NULL: the command line.
    Column("admin_id", Int64, ForeignKey("accounts.id")),
    # NULL: not about one account.
    Column("account_id", Int64, ForeignKey("accounts.id")),
    Column("action", Text, nullable=False),
    Column("amount", Int64),
    Column("note", Text),
    Column("created_ms", Int64, nullable=False),
    # Its subject, if that is not the account: a generation, a voucher or a batch of vouchers.
    Column("subject", Text),
    # Where it was done: the IP address of the browser, or user and machine of the command line.
    Column("source", Text),
    CheckConstraint(
        "action IN ('grant', 'revoke_keys', 'reload_catalog', 'suspend', 'unsuspend', 'reverse', 'refund',"
        " 'cancel_vouchers', 'note', 'view', 'set_group', 'start_plan', 'end_plan', 'create_coupon',"
        " 'cancel_coupon', 'reset_second_factor')",
        name="action_known",
    ),
    Index("ix_admin_actions_account", "account_id", "id"),
    sqlite_strict=True,
)

#: Facts about the installation by name, such as the mark of the secret that its keys are hashed under.
installation = Table(
    "installation",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_strict=True,
)
