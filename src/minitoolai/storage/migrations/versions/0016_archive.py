"""Archived days: their files and sums, opening balances, and what budgets spent. Indexes for pages of lists."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

Int64 = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, Int64, nullable=False)


def upgrade() -> None:
    """Create the tables, and the index by which holds are deleted. None is of a table that every request writes."""
    op.create_table(
        "archived_days",
        sa.Column("day", Int64, primary_key=True, autoincrement=False),
        *(_number(name) for name in ("requests", "paid", "cost", "amount", "shortfall")),
        sa.Column("manifest", sa.Text, nullable=False),
        _number("archived_ms"),
        sa.Column("removed_ms", Int64),
        sqlite_strict=True,
    )
    op.create_table(
        "archived_parts",
        sa.Column("day", Int64, primary_key=True, autoincrement=False),
        sa.Column("part", Int64, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.Text, nullable=False),
        *(_number(name) for name in ("bytes", "requests")),
        sqlite_strict=True,
    )
    op.create_table(
        "archived_accounts",
        sa.Column("day", Int64, primary_key=True, autoincrement=False),
        sa.Column("part", Int64, primary_key=True, autoincrement=False),
        sa.Column(
            "account_id",
            Int64,
            sa.ForeignKey("accounts.id", name="fk_archived_accounts_account_id"),
            primary_key=True,
            autoincrement=False,
        ),
        _number("first_ms"),
        _number("last_ms"),
        sa.Column("first_version", Int64),
        sa.Column("last_version", Int64),
        sqlite_strict=True,
    )
    op.create_index("ix_archived_accounts_time", "archived_accounts", ["account_id", "day", "part"])
    op.create_index("ix_archived_accounts_version", "archived_accounts", ["account_id", "last_version"])
    op.create_table(
        "opening_balances",
        sa.Column(
            "account_id",
            Int64,
            sa.ForeignKey("accounts.id", name="fk_opening_balances_account_id"),
            primary_key=True,
            autoincrement=False,
        ),
        _number("amount"),
        sqlite_strict=True,
    )
    op.create_table(
        "archived_budgets", sa.Column("budget_id", sa.Text, primary_key=True), _number("used"), sqlite_strict=True
    )
    # Each deleted hold is looked for here, as its foreign key demands.
    op.create_index("ix_idempotency_keys_hold_id", "idempotency_keys", ["hold_id"])
    op.create_index("ix_payments_account", "payments", ["account_id", "id"])
    op.drop_index("ix_payments_account_id", "payments")
    op.create_index("ix_vouchers_created", "vouchers", ["created_ms", "code_hmac"])
