"""Plans that a payment provider renews, and a stamp that says whether a remembered purse is still true."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add two columns that may be NULL, and create one empty table."""
    op.add_column("accounts", sa.Column("purse_stamp", Int64, nullable=True))
    op.add_column("payments", sa.Column("subscription_id", Int64, nullable=True))
    op.create_table(
        "subscriptions",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_ref", sa.Text(), nullable=True),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("price", Int64, nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default="new"),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("changed_ms", Int64, nullable=False),
        sa.CheckConstraint("price > 0", name=op.f("ck_subscriptions_price_positive")),
        sa.CheckConstraint(
            "state = 'new' OR state = 'active' OR state = 'ending' OR state = 'ended'",
            name=op.f("ck_subscriptions_state_known"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_subscriptions_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
        sa.UniqueConstraint("provider_ref", name=op.f("uq_subscriptions_provider_ref")),
        sqlite_strict=True,
    )
    op.create_index("ix_subscriptions_account", "subscriptions", ["account_id", "id"])
    running = sa.text("state <> 'ended'")
    op.create_index("ix_subscriptions_running", "subscriptions", ["id"], sqlite_where=running, postgresql_where=running)
