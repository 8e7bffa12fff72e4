"""Requests in progress that processes count together."""

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add an empty table. On PostgreSQL it is unlogged: a crash may empty it, and processes write it anew."""
    unlogged = ["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else []
    op.create_table(
        "shared_slots",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("held", Int64, nullable=False),
        sa.Column("until_ms", Int64, nullable=False),
        sa.PrimaryKeyConstraint("name", "process", name=op.f("pk_shared_slots")),
        prefixes=unlogged,
        sqlite_strict=True,
    )
    op.create_index("ix_shared_slots_until_ms", "shared_slots", ["until_ms"], unique=False)
