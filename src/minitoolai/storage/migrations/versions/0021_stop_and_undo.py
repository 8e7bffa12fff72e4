"""Suspended accounts, refunds of charges, cancelled vouchers, and an audit log that the command line writes as well."""

import re
from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OLD_ACTIONS = "'grant', 'revoke_keys', 'reload_catalog'"
_ACTIONS = f"{_OLD_ACTIONS}, 'suspend', 'unsuspend', 'reverse', 'refund', 'cancel_vouchers'"
_REDEEMED_OR_CANCELLED = "redeemed_ms IS NULL OR cancelled_ms IS NULL"


def upgrade() -> None:
    """Add columns without values and an empty table, and change two small tables."""
    op.add_column("users", sa.Column("suspended_ms", Int64, nullable=True))
    op.add_column("users", sa.Column("suspended_reason", sa.Text(), nullable=True))
    op.create_table(
        "refunds",
        sa.Column("generation_id", Int64, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=False),
        *(sa.Column(name, Int64, nullable=False) for name in ("amount", "total", "cost")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("kind", "model", "key_id")),
        sa.Column("began_ms", Int64, nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_refunds_amount_positive")),
        sa.CheckConstraint("total >= amount AND total <= cost", name=op.f("ck_refunds_within_the_charge")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_refunds_account_id")),
        sa.PrimaryKeyConstraint("generation_id", "number", name=op.f("pk_refunds")),
        sa.UniqueConstraint("external_ref", name=op.f("uq_refunds_external_ref")),
        sqlite_strict=True,
    )
    op.create_index("ix_refunds_account", "refunds", ["account_id", "began_ms"])
    op.create_index("ix_refunds_began_ms", "refunds", ["began_ms"])
    _change_vouchers()
    _change_admin_actions()


def _change_vouchers() -> None:
    op.add_column("vouchers", sa.Column("batch", sa.Text(), nullable=True))
    op.add_column("vouchers", sa.Column("cancelled_ms", Int64, nullable=True))
    name = op.f("ck_vouchers_redeemed_or_cancelled")
    if op.get_bind().dialect.name == "sqlite":
        check = f", CONSTRAINT {name} CHECK ({_REDEEMED_OR_CANCELLED})"
        _make_again("vouchers", lambda sql: check.join((sql[: sql.rindex(")")], sql[sql.rindex(")") :])))
        redeemed = sa.text("account_id IS NOT NULL")
        op.create_index("ix_vouchers_account", "vouchers", ["account_id"], sqlite_where=redeemed)
        op.create_index("ix_vouchers_created", "vouchers", ["created_ms", "code_hmac"])
    else:
        op.create_check_constraint(name, "vouchers", _REDEEMED_OR_CANCELLED)
    in_batch = sa.text("batch IS NOT NULL")
    op.create_index("ix_vouchers_batch", "vouchers", ["batch"], sqlite_where=in_batch, postgresql_where=in_batch)


def _change_admin_actions() -> None:
    op.add_column("admin_actions", sa.Column("subject", sa.Text(), nullable=True))
    name = op.f("ck_admin_actions_action_known")
    if op.get_bind().dialect.name == "sqlite":
        optional = r"\b(admin_id|account_id) INTEGER NOT NULL"
        _make_again("admin_actions", lambda sql: re.sub(optional, r"\1 INTEGER", sql.replace(_OLD_ACTIONS, _ACTIONS)))
        op.create_index("ix_admin_actions_account", "admin_actions", ["account_id", "id"])
        return
    for column in ("admin_id", "account_id"):
        op.alter_column("admin_actions", column, nullable=True)
    op.drop_constraint(name, "admin_actions", type_="check")
    op.create_check_constraint(name, "admin_actions", f"action IN ({_ACTIONS})")


def _make_again(table: str, change: Callable[[str], str]) -> None:
    """Copy a table into one with a changed definition, because SQLite cannot change a constraint. Drops its indexes."""
    connection = op.get_bind()
    made = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": table}).scalar_one()
    changed = re.sub(rf'^CREATE TABLE "?{table}"?', f"CREATE TABLE {table}_new", change(made))
    connection.execute(sa.text(changed))
    connection.execute(sa.text(f"INSERT INTO {table}_new SELECT * FROM {table}"))
    connection.execute(sa.text(f"DROP TABLE {table}"))
    connection.execute(sa.text(f"ALTER TABLE {table}_new RENAME TO {table}"))
