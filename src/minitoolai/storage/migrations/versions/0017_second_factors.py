"""Second factors with their recovery codes, changes of e-mail addresses, and the browser of each session."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add three empty tables, and columns without a value for the sessions that exist."""
    for name in ("address", "browser", "system"):
        op.add_column("sessions", sa.Column(name, sa.Text(), nullable=True))
    op.create_table(
        "second_factors",
        sa.Column("account_id", Int64, autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("last_step", Int64, nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_second_factors_account_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_second_factors")),
        sqlite_strict=True,
    )
    op.create_table(
        "recovery_codes",
        sa.Column("account_id", Int64, autoincrement=False, nullable=False),
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_recovery_codes_account_id")),
        sa.PrimaryKeyConstraint("account_id", "code_hash", name=op.f("pk_recovery_codes")),
        sqlite_strict=True,
    )
    op.create_table(
        "email_changes",
        sa.Column("account_id", Int64, autoincrement=False, nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("new_hash", sa.LargeBinary(), nullable=False),
        sa.Column("old_hash", sa.LargeBinary(), nullable=False),
        sa.Column("is_new_confirmed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("is_old_confirmed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("expires_ms", Int64, nullable=False),
        sa.CheckConstraint("is_new_confirmed IN (0, 1)", name=op.f("ck_email_changes_is_new_confirmed_is_a_flag")),
        sa.CheckConstraint("is_old_confirmed IN (0, 1)", name=op.f("ck_email_changes_is_old_confirmed_is_a_flag")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_email_changes_account_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_email_changes")),
        sa.UniqueConstraint("new_hash", name=op.f("uq_email_changes_new_hash")),
        sa.UniqueConstraint("old_hash", name=op.f("uq_email_changes_old_hash")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_email_changes_expires_ms"), "email_changes", ["expires_ms"], unique=False)
