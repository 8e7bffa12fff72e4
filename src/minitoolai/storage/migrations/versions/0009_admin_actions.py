"""What admins did: who, when, to which account."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """One table; its rows are never changed."""
    op.create_table(
        "admin_actions",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("admin_id", Int64, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("amount", Int64, nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_ms", Int64, nullable=False),
        sa.CheckConstraint("action IN ('grant', 'revoke_keys')", name=op.f("ck_admin_actions_action_known")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_admin_actions_account_id")),
        sa.ForeignKeyConstraint(["admin_id"], ["accounts.id"], name=op.f("fk_admin_actions_admin_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_actions")),
        sqlite_strict=True,
    )
    op.create_index("ix_admin_actions_account", "admin_actions", ["account_id", "id"], unique=False)
