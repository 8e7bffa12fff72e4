"""Stored requests and responses, encrypted under a key for each account, and daily exports of the request log."""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add three empty tables."""
    op.create_table(
        "body_settings",
        sa.Column("account_id", Int64, autoincrement=False, nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=True),
        sa.Column("changed_ms", Int64, nullable=False),
        sa.CheckConstraint("days >= 0 AND days <= 30", name=op.f("ck_body_settings_days_limited")),
        sa.CheckConstraint("(days > 0) = (wrapped_key IS NOT NULL)", name=op.f("ck_body_settings_key_while_on")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_body_settings_account_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_body_settings")),
        sqlite_strict=True,
    )
    off = sa.text("wrapped_key IS NULL")
    op.create_index("ix_body_settings_off", "body_settings", ["account_id"], sqlite_where=off, postgresql_where=off)
    op.create_table(
        "request_bodies",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=True),
        sa.Column("response", sa.LargeBinary(), nullable=True),
        sa.Column("request_bytes", Int64, nullable=False),
        sa.Column("response_bytes", Int64, nullable=False),
        sa.Column("expires_ms", Int64, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_request_bodies_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request_bodies")),
        sqlite_strict=True,
    )
    op.create_index("ix_request_bodies_account", "request_bodies", ["account_id", "id"], unique=False)
    op.create_index(op.f("ix_request_bodies_expires_ms"), "request_bodies", ["expires_ms"], unique=False)
    op.create_table(
        "log_exports",
        sa.Column("account_id", Int64, autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=True),
        sa.Column("next_day", Int64, nullable=False),
        sa.Column("next_ms", Int64, nullable=False),
        sa.Column("failures", Int64, nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("done_day", Int64, nullable=True),
        sa.Column("done_ms", Int64, nullable=True),
        sa.Column("changed_ms", Int64, nullable=False),
        sa.CheckConstraint("kind = 's3' OR kind = 'webhook'", name=op.f("ck_log_exports_kind_known")),
        sa.CheckConstraint("format = 'csv' OR format = 'jsonl'", name=op.f("ck_log_exports_format_known")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_log_exports_account_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_log_exports")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_log_exports_next_ms"), "log_exports", ["next_ms"], unique=False)
