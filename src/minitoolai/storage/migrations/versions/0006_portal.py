"""The portal: who signs in, sessions, links sent by mail, uses of keys; vouchers, payments, seen events."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAMES = {
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
}


def _old_users() -> sa.Table:
    return sa.Table(
        "users",
        sa.MetaData(naming_convention=NAMES),
        sa.Column("email", sa.Text(), primary_key=True),
        sa.Column("account_id", Int64, sa.ForeignKey("accounts.id"), nullable=False, unique=True),
        sa.Column("password_hash", sa.Text()),
        sa.Column("created_ms", Int64, nullable=False),
        sqlite_strict=True,
    )


def upgrade() -> None:
    """Forward only, like the books themselves."""
    with op.batch_alter_table("users", copy_from=_old_users(), recreate="auto") as users:
        users.add_column(sa.Column("is_admin", sa.Integer(), nullable=False, server_default="0"))
        users.add_column(sa.Column("language", sa.Text()))
        users.add_column(sa.Column("deleted_ms", Int64))
        users.create_check_constraint("is_admin_is_a_flag", "is_admin IN (0, 1)")
    op.create_table(
        "sessions",
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("seen_ms", Int64, nullable=False),
        sa.Column("expires_ms", Int64, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_sessions_account_id")),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_sessions")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_sessions_account_id"), "sessions", ["account_id"], unique=False)
    op.create_table(
        "key_uses",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("last_used_ms", Int64, nullable=False),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_key_uses")),
        sqlite_strict=True,
    )
    op.create_table(
        "mail_links",
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("browser_hash", sa.LargeBinary(), nullable=True),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("expires_ms", Int64, nullable=False),
        sa.CheckConstraint("purpose IN ('signup', 'reset')", name=op.f("ck_mail_links_purpose_known")),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_mail_links")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_mail_links_email"), "mail_links", ["email"], unique=False)
    _payments()


def _payments() -> None:
    op.create_table(
        "vouchers",
        sa.Column("code_hmac", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("expires_ms", Int64, nullable=True),
        sa.Column("redeemed_ms", Int64, nullable=True),
        sa.Column("account_id", Int64, nullable=True),
        sa.CheckConstraint("amount > 0", name=op.f("ck_vouchers_amount_positive")),
        sa.CheckConstraint(
            "(redeemed_ms IS NULL) = (account_id IS NULL)", name=op.f("ck_vouchers_redeemed_by_somebody")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_vouchers_account_id")),
        sa.PrimaryKeyConstraint("code_hmac", name=op.f("pk_vouchers")),
        sqlite_strict=True,
    )
    op.create_table(
        "payments",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_ref", sa.Text(), nullable=True),
        sa.Column("intent", sa.Text(), nullable=True),
        sa.Column("asked", Int64, nullable=False),
        sa.Column("paid", Int64, server_default="0", nullable=False),
        sa.Column("reversed", Int64, server_default="0", nullable=False),
        sa.Column("moved", Int64, server_default="0", nullable=False),
        sa.Column("version", Int64, server_default="0", nullable=False),
        sa.Column("looks", Int64, server_default="0", nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("changed_ms", Int64, nullable=False),
        sa.CheckConstraint("asked > 0", name=op.f("ck_payments_asked_positive")),
        sa.CheckConstraint("reversed BETWEEN 0 AND paid", name=op.f("ck_payments_reversed_within_paid")),
        sa.CheckConstraint("moved BETWEEN 0 AND paid", name=op.f("ck_payments_moved_within_paid")),
        sa.CheckConstraint("state IN ('open', 'paid', 'closed')", name=op.f("ck_payments_state_known")),
        sa.CheckConstraint("(state = 'paid') = (paid > 0)", name=op.f("ck_payments_paid_means_money")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_payments_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payments")),
        sa.UniqueConstraint("provider_ref", name=op.f("uq_payments_provider_ref")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_payments_account_id"), "payments", ["account_id"], unique=False)
    op.create_index("ix_payments_intent", "payments", ["intent"], unique=False)
    op.create_table(
        "webhook_events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("seen_ms", Int64, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_webhook_events")),
        sqlite_strict=True,
    )
