"""Price groups, plans with their purses and windows, and coupons."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NEW = ("set_group", "start_plan", "end_plan", "create_coupon", "cancel_coupon")


def upgrade() -> None:
    """Add columns without values and empty tables, and allow more actions in the audit log."""
    op.add_column("accounts", sa.Column("purse_until_ms", Int64, nullable=True))
    op.add_column("users", sa.Column("price_group", sa.Text(), nullable=True))
    op.add_column("holds", sa.Column("purse_id", Int64, nullable=True))
    _create_purses()
    _create_coupons()
    _change_admin_actions()


def _create_purses() -> None:
    op.create_table(
        "purses",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("owner_id", Int64, nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("price", Int64, nullable=False),
        sa.Column("credit", Int64, nullable=False),
        *(sa.Column(name, Int64, nullable=True) for name in ("window_5h", "window_week", "window_month")),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("begins_ms", Int64, nullable=False),
        sa.Column("ends_ms", Int64, nullable=False),
        sa.Column("expired", Int64, nullable=False, server_default="0"),
        sa.Column("state", sa.Text(), nullable=False, server_default="open"),
        sa.Column("renewal", sa.Text(), nullable=False, server_default="none"),
        sa.Column("unpaid_ms", Int64, nullable=True),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.CheckConstraint("price >= 0", name=op.f("ck_purses_price_not_negative")),
        sa.CheckConstraint("credit > 0", name=op.f("ck_purses_credit_positive")),
        sa.CheckConstraint("expired BETWEEN 0 AND credit", name=op.f("ck_purses_expired_within_credit")),
        sa.CheckConstraint("ends_ms >= begins_ms", name=op.f("ck_purses_ends_after_beginning")),
        sa.CheckConstraint("id <> owner_id", name=op.f("ck_purses_not_its_own_owner")),
        _one_of("period", "week", "month", "year"),
        _one_of("state", "open", "closed"),
        _one_of("renewal", "none", "balance", "provider"),
        sa.ForeignKeyConstraint(["id"], ["accounts.id"], name=op.f("fk_purses_id")),
        sa.ForeignKeyConstraint(["owner_id"], ["accounts.id"], name=op.f("fk_purses_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_purses")),
        sa.UniqueConstraint("reference", name=op.f("uq_purses_reference")),
        sqlite_strict=True,
    )
    op.create_index("ix_purses_owner", "purses", ["owner_id", "id"])
    is_open = sa.text("state = 'open'")
    op.create_index("ix_purses_open", "purses", ["ends_ms"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_table(
        "purse_windows",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("purse_id", Int64, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("used", Int64, nullable=False),
        sa.CheckConstraint("used >= 0", name=op.f("ck_purse_windows_used_not_negative")),
        sa.ForeignKeyConstraint(["purse_id"], ["purses.id"], name=op.f("fk_purse_windows_purse_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_purse_windows")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_purse_windows_purse_id"), "purse_windows", ["purse_id"])


def _one_of(column: str, *words: str) -> sa.CheckConstraint:
    name = op.f(f"ck_purses_{column}_known")
    return sa.CheckConstraint(" OR ".join(f"{column} = '{word}'" for word in words), name=name)


def _create_coupons() -> None:
    op.create_table(
        "coupons",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=True),
        sa.Column("amount", Int64, nullable=True),
        sa.Column("uses", Int64, nullable=False),
        sa.Column("used", Int64, nullable=False, server_default="0"),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("expires_ms", Int64, nullable=True),
        sa.Column("cancelled_ms", Int64, nullable=True),
        sa.CheckConstraint("(percent IS NULL) <> (amount IS NULL)", name=op.f("ck_coupons_percent_or_amount")),
        sa.CheckConstraint("percent IS NULL OR percent BETWEEN 1 AND 100", name=op.f("ck_coupons_percent_within_100")),
        sa.CheckConstraint("amount IS NULL OR amount > 0", name=op.f("ck_coupons_amount_positive")),
        sa.CheckConstraint("used BETWEEN 0 AND uses", name=op.f("ck_coupons_used_within_uses")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_coupons")),
        sa.UniqueConstraint("code", name=op.f("uq_coupons_code")),
        sqlite_strict=True,
    )
    op.create_index("ix_coupons_created", "coupons", ["created_ms", "id"])
    op.create_table(
        "coupon_uses",
        sa.Column("coupon_id", Int64, autoincrement=False, nullable=False),
        sa.Column("account_id", Int64, autoincrement=False, nullable=False),
        sa.Column("used_ms", Int64, nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["coupon_id"], ["coupons.id"], name=op.f("fk_coupon_uses_coupon_id")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_coupon_uses_account_id")),
        sa.PrimaryKeyConstraint("coupon_id", "account_id", name=op.f("pk_coupon_uses")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("ix_coupon_uses_account", "coupon_uses", ["account_id", "coupon_id"])


def _change_admin_actions() -> None:
    """Allow more actions beside those that are allowed. SQLite cannot change a CHECK: the table is made again there."""
    connection = op.get_bind()
    name = "ck_admin_actions_action_known"
    if connection.dialect.name != "sqlite":
        made = connection.execute(
            sa.text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name"), {"name": name}
        ).scalar_one()
        op.drop_constraint(op.f(name), "admin_actions", type_="check")
        op.create_check_constraint(op.f(name), "admin_actions", f"action IN ({_known(made)})")
        return
    made = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'admin_actions'")).scalar_one()
    changed = re.sub(r"action IN \([^)]*\)", lambda found: f"action IN ({_known(found[0])})", made)
    changed = re.sub(r"^CREATE TABLE \"?admin_actions\"?", "CREATE TABLE admin_actions_new", changed)
    connection.execute(sa.text(changed))
    connection.execute(sa.text("INSERT INTO admin_actions_new SELECT * FROM admin_actions"))
    connection.execute(sa.text("DROP TABLE admin_actions"))
    connection.execute(sa.text("ALTER TABLE admin_actions_new RENAME TO admin_actions"))
    op.create_index("ix_admin_actions_account", "admin_actions", ["account_id", "id"], unique=False)


def _known(check: str) -> str:
    """Return the actions that a CHECK names, and the new ones."""
    return ", ".join(f"'{action}'" for action in (*re.findall(r"'(\w+)'", check), *_NEW))
