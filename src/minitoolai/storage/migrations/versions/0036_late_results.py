"""Results that came after their hold was recovered."""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0032"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add an empty table."""
    op.create_table(
        "late_results",
        sa.Column("generation_id", Int64, autoincrement=False, nullable=False),
        sa.Column("cost", Int64, nullable=False),
        sa.Column("charged", Int64, nullable=False),
        sa.Column("came_ms", Int64, nullable=False),
        sa.PrimaryKeyConstraint("generation_id", name=op.f("pk_late_results")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_late_results_came_ms"), "late_results", ["came_ms"], unique=False)
