"""What a key may do and spend: its rules, the budgets' counts, and the holds that count against one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Columns that may be empty, and one table."""
    op.add_column("api_keys", sa.Column("rules", sa.Text()))
    op.add_column("api_keys", sa.Column("family", sa.Text()))
    op.add_column("holds", sa.Column("budget_id", sa.Text()))
    op.add_column("holds", sa.Column("budget_ms", Int64))
    op.create_table(
        "key_spending",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("used", Int64, nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.CheckConstraint("used >= 0", name=op.f("ck_key_spending_used_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_key_spending")),
        sqlite_strict=True,
    )
