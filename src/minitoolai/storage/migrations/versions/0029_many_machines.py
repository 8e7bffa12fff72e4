"""What many machines share for moments: presence of workers, steps of running jobs, and shares of rate limits."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"

Int64 = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add a column and two tables. On PostgreSQL the tables are unlogged: a crash may empty them."""
    op.add_column("workers", sa.Column("presence", Int64))
    unlogged = ["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else []
    op.create_table(
        "worker_steps",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("steps", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("worker", name=op.f("pk_worker_steps")),
        prefixes=unlogged,
        sqlite_strict=True,
    )
    op.create_table(
        "shared_limits",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("full_us", Int64, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_shared_limits")),
        prefixes=unlogged,
        sqlite_strict=True,
    )
    op.create_index("ix_shared_limits_full", "shared_limits", ["full_us"])
