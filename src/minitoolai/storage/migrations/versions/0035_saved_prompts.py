"""Prompts that members save in the playground, and an index of finished images for the gallery."""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add an empty table, and an index that only image jobs write, at their end."""
    op.create_table(
        "saved_prompts",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("user_id", Int64, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("instructions", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("changed_ms", Int64, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_saved_prompts_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_prompts")),
        sqlite_strict=True,
    )
    op.create_index("ix_saved_prompts_member", "saved_prompts", ["user_id", "account_id"], unique=False)
    op.create_index(
        "ix_generations_gallery",
        "generations",
        ["account_id", "created_ms", "id"],
        unique=False,
        sqlite_where=sa.text("kind = 'image' AND state = 'succeeded'"),
        postgresql_where=sa.text("kind = 'image' AND state = 'succeeded'"),
    )
