"""Stored responses of `/v1/responses`, and their bytes by account."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add two empty tables."""
    op.create_table(
        "responses",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("previous_id", Int64, nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("is_background", sa.Integer(), nullable=False),
        sa.Column("is_open", sa.Integer(), nullable=False),
        sa.Column("cancelled_ms", Int64, nullable=True),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("expires_ms", Int64, nullable=False),
        sa.Column("request_bytes", Int64, nullable=False),
        sa.Column("response_bytes", Int64, nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("is_background IN (0, 1)", name=op.f("ck_responses_is_background_is_a_flag")),
        sa.CheckConstraint("is_open IN (0, 1)", name=op.f("ck_responses_is_open_is_a_flag")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_responses_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_responses")),
        sqlite_strict=True,
    )
    op.create_index("ix_responses_account", "responses", ["account_id", "id"], unique=False)
    op.create_index("ix_responses_expires_ms", "responses", ["expires_ms"], unique=False)
    is_open = sa.text("is_open = 1")
    op.create_index("ix_responses_open", "responses", ["id"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_table(
        "response_totals",
        sa.Column("account_id", Int64, autoincrement=False, nullable=False),
        sa.Column("bytes", Int64, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_response_totals_account_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_response_totals")),
        sqlite_strict=True,
    )
