"""The first tables: accounts, users, keys, holds, generations, transfers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def int64() -> sa.types.TypeEngine[int]:
    """64 bits on PostgreSQL, INTEGER on SQLite's STRICT tables."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "accounts",
        sa.Column("id", int64(), autoincrement=False, nullable=False),
        sa.Column("posted", int64(), server_default="0", nullable=False),
        sa.Column("held", int64(), server_default="0", nullable=False),
        sa.Column("version", int64(), server_default="0", nullable=False),
        sa.Column("is_system", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_ms", int64(), nullable=False),
        sa.CheckConstraint("held >= 0", name=op.f("ck_accounts_held_not_negative")),
        sa.CheckConstraint(
            "is_system = 0 OR (posted = 0 AND held = 0)", name=op.f("ck_accounts_system_balance_is_derived")
        ),
        sa.CheckConstraint("is_system = 1 OR posted - held >= 0", name=op.f("ck_accounts_never_below_zero")),
        sa.CheckConstraint("is_system IN (0, 1)", name=op.f("ck_accounts_is_system_is_a_flag")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sqlite_strict=True,
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", int64(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hmac", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", int64(), nullable=False),
        sa.Column("revoked_ms", int64(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_api_keys_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_api_keys_account_id"), "api_keys", ["account_id"], unique=False)
    op.create_table(
        "holds",
        sa.Column("id", int64(), autoincrement=False, nullable=False),
        sa.Column("account_id", int64(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", int64(), nullable=False),
        sa.Column("progress", int64(), server_default="0", nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("settled", int64(), server_default="0", nullable=False),
        sa.Column("shortfall", int64(), server_default="0", nullable=False),
        sa.Column("lease_until_ms", int64(), nullable=True),
        sa.CheckConstraint("(state = 'posted') = (settled > 0)", name=op.f("ck_holds_posted_means_settled")),
        sa.CheckConstraint("kind IN ('chat', 'image', 'speech')", name=op.f("ck_holds_kind_known")),
        sa.CheckConstraint("state IN ('pending', 'posted', 'voided')", name=op.f("ck_holds_state_known")),
        sa.CheckConstraint("amount > 0", name=op.f("ck_holds_amount_positive")),
        sa.CheckConstraint("progress BETWEEN 0 AND amount", name=op.f("ck_holds_progress_within_amount")),
        sa.CheckConstraint("settled BETWEEN 0 AND amount", name=op.f("ck_holds_settled_within_amount")),
        sa.CheckConstraint("shortfall >= 0", name=op.f("ck_holds_shortfall_not_negative")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_holds_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_holds_pending",
        "holds",
        ["kind", "lease_until_ms"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "users",
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("account_id", int64(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("created_ms", int64(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_users_account_id")),
        sa.PrimaryKeyConstraint("email", name=op.f("pk_users")),
        sa.UniqueConstraint("account_id", name=op.f("uq_users_account_id")),
        sqlite_strict=True,
    )
    op.create_table(
        "generations",
        sa.Column("id", int64(), autoincrement=False, nullable=False),
        sa.Column("account_id", int64(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("served_model", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("price_input", int64(), nullable=False),
        sa.Column("price_output", int64(), nullable=False),
        sa.Column("input_units", int64(), server_default="0", nullable=False),
        sa.Column("output_units", int64(), server_default="0", nullable=False),
        sa.Column("cached_units", int64(), server_default="0", nullable=False),
        sa.Column("estimated", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cost", int64(), server_default="0", nullable=False),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("seed", int64(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until_ms", int64(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("created_ms", int64(), nullable=False),
        sa.Column("first_token_ms", int64(), nullable=True),
        sa.Column("finished_ms", int64(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_generations_state_known"),
        ),
        sa.CheckConstraint("cost >= 0", name=op.f("ck_generations_cost_not_negative")),
        sa.CheckConstraint("estimated IN (0, 1)", name=op.f("ck_generations_estimated_is_a_flag")),
        sa.CheckConstraint("price_input >= 0 AND price_output >= 0", name=op.f("ck_generations_prices_not_negative")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_generations_account_id")),
        sa.ForeignKeyConstraint(["id"], ["holds.id"], name=op.f("fk_generations_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generations")),
        sqlite_strict=True,
    )
    op.create_index("ix_generations_account", "generations", ["account_id", "created_ms"], unique=False)
    op.create_table(
        "transfers",
        sa.Column("id", int64(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("debit", int64(), nullable=False),
        sa.Column("credit", int64(), nullable=False),
        sa.Column("amount", int64(), nullable=False),
        sa.Column("hold_id", int64(), nullable=True),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("account_version", int64(), nullable=False),
        sa.Column("balance_after", int64(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_ms", int64(), nullable=False),
        sa.CheckConstraint(
            "(hold_id IS NULL) <> (external_ref IS NULL)", name=op.f("ck_transfers_one_reason_to_exist")
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_transfers_amount_positive")),
        sa.CheckConstraint("balance_after >= 0", name=op.f("ck_transfers_never_below_zero")),
        sa.CheckConstraint("debit <> credit", name=op.f("ck_transfers_two_accounts")),
        sa.ForeignKeyConstraint(["credit"], ["accounts.id"], name=op.f("fk_transfers_credit")),
        sa.ForeignKeyConstraint(["debit"], ["accounts.id"], name=op.f("fk_transfers_debit")),
        sa.ForeignKeyConstraint(["hold_id"], ["holds.id"], name=op.f("fk_transfers_hold_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_transfers_credit",
        "transfers",
        ["credit"],
        unique=False,
        sqlite_where=sa.text("kind <> 'usage'"),
        postgresql_where=sa.text("kind <> 'usage'"),
    )
    op.create_index(
        "ix_transfers_debit",
        "transfers",
        ["debit"],
        unique=False,
        sqlite_where=sa.text("kind <> 'usage'"),
        postgresql_where=sa.text("kind <> 'usage'"),
    )
    op.create_index(
        "uq_transfers_external_ref",
        "transfers",
        ["external_ref"],
        unique=True,
        sqlite_where=sa.text("external_ref IS NOT NULL"),
        postgresql_where=sa.text("external_ref IS NOT NULL"),
    )
    op.create_index(
        "uq_transfers_hold_id",
        "transfers",
        ["hold_id"],
        unique=True,
        sqlite_where=sa.text("hold_id IS NOT NULL"),
        postgresql_where=sa.text("hold_id IS NOT NULL"),
    )
