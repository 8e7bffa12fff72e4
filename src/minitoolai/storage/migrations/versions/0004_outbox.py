"""Whom to tell of the end of a job, and how that went; an index of pictures by age."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_PENDING = sa.text("state = 'pending'")
_KEPT = sa.text("kind = 'image' AND result IS NOT NULL")


def int64() -> sa.types.TypeEngine[int]:
    """64 bits on PostgreSQL, INTEGER on SQLite's STRICT tables."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Two tables, and an index that holds only pictures that are kept."""
    op.create_table(
        "outbox",
        sa.Column("id", int64(), nullable=False),
        sa.Column("generation_id", int64(), nullable=False),
        sa.Column("account_id", int64(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_ms", int64(), nullable=False),
        sa.Column("created_ms", int64(), nullable=False),
        sa.Column("finished_ms", int64()),
        sa.CheckConstraint("(state = 'pending') = (finished_ms IS NULL)", name=op.f("ck_outbox_finished_means_over")),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name=op.f("ck_outbox_state_known")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_outbox_account_id")),
        sa.ForeignKeyConstraint(["generation_id"], ["generations.id"], name=op.f("fk_outbox_generation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("generation_id", name=op.f("uq_outbox_generation_id")),
        sqlite_strict=True,
    )
    op.create_index("ix_outbox_account", "outbox", ["account_id", "id"])
    op.create_index("ix_outbox_due", "outbox", ["next_ms"], sqlite_where=_PENDING, postgresql_where=_PENDING)
    op.create_table(
        "webhook_deliveries",
        sa.Column("outbox_id", int64(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at_ms", int64(), nullable=False),
        sa.Column("duration_ms", int64(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.CheckConstraint(
            "(status IS NULL) = (error IS NOT NULL)", name=op.f("ck_webhook_deliveries_an_answer_or_an_error")
        ),
        sa.ForeignKeyConstraint(["outbox_id"], ["outbox.id"], name=op.f("fk_webhook_deliveries_outbox_id")),
        sa.PrimaryKeyConstraint("outbox_id", "attempt", name=op.f("pk_webhook_deliveries")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_generations_pictures", "generations", ["finished_ms"], sqlite_where=_KEPT, postgresql_where=_KEPT
    )
