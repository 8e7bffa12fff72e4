"""Identities at other providers that sign users in."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add an empty table."""
    op.create_table(
        "identities",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("user_id", Int64, nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_identities_user_id")),
        sa.PrimaryKeyConstraint("issuer", "subject", name=op.f("pk_identities")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_identities_user_id"), "identities", ["user_id"], unique=False)
