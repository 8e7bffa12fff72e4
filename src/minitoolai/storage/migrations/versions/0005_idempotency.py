"""Idempotency-Key: one paid request under one key, and its answer for a day."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """One table."""
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("hold_id", Int64, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", sa.Text()),
        sa.Column("body", sa.LargeBinary()),
        sa.ForeignKeyConstraint(["hold_id"], ["holds.id"], name=op.f("fk_idempotency_keys_hold_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotency_keys")),
        sqlite_strict=True,
    )
    op.create_index("ix_idempotency_keys_created_ms", "idempotency_keys", ["created_ms"], unique=False)
