"""Passkeys with their challenges, and removals of second factors that users have asked for."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NEW = ("reset_second_factor",)


def upgrade() -> None:
    """Add three empty tables and a column without values, and allow one more action in the audit log."""
    op.create_table(
        "passkeys",
        sa.Column("credential_id", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", Int64, nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sign_count", Int64, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("transports", sa.Text(), nullable=False),
        sa.Column("is_synced", sa.Integer(), nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("used_ms", Int64, nullable=True),
        sa.Column("blocked_ms", Int64, nullable=True),
        sa.CheckConstraint("is_synced IN (0, 1)", name=op.f("ck_passkeys_is_synced_is_a_flag")),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_passkeys_user_id")),
        sa.PrimaryKeyConstraint("credential_id", name=op.f("pk_passkeys")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_passkeys_user_id"), "passkeys", ["user_id"], unique=False)
    op.create_table(
        "passkey_challenges",
        sa.Column("challenge", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("browser_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", Int64, nullable=True),
        sa.Column("expires_ms", Int64, nullable=False),
        sa.CheckConstraint(
            "purpose IN ('create', 'sign_in', 'confirm')", name=op.f("ck_passkey_challenges_purpose_known")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_passkey_challenges_user_id")),
        sa.PrimaryKeyConstraint("challenge", name=op.f("pk_passkey_challenges")),
        sqlite_strict=True,
    )
    for column in ("user_id", "expires_ms"):
        op.create_index(op.f(f"ix_passkey_challenges_{column}"), "passkey_challenges", [column], unique=False)
    op.create_table(
        "factor_resets",
        sa.Column("user_id", Int64, autoincrement=False, nullable=False),
        sa.Column("id", Int64, nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("confirmed_ms", Int64, nullable=True),
        sa.Column("ready_ms", Int64, nullable=True),
        sa.Column("next_mail_ms", Int64, nullable=True),
        sa.Column("expires_ms", Int64, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["accounts.id"], name=op.f("fk_factor_resets_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_factor_resets")),
        sa.UniqueConstraint("id", name=op.f("uq_factor_resets_id")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_factor_resets_expires_ms"), "factor_resets", ["expires_ms"], unique=False)
    due = sa.text("next_mail_ms IS NOT NULL")
    op.create_index("ix_factor_resets_mail", "factor_resets", ["next_mail_ms"], sqlite_where=due, postgresql_where=due)
    op.add_column("users", sa.Column("password_reset_ms", Int64, nullable=True))
    _change_admin_actions()


def _change_admin_actions() -> None:
    """Allow one more action beside those that are allowed. SQLite cannot change a CHECK: the table is made again."""
    connection = op.get_bind()
    name = "ck_admin_actions_action_known"
    if connection.dialect.name != "sqlite":
        made = connection.execute(
            sa.text("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name"), {"name": name}
        ).scalar_one()
        op.drop_constraint(op.f(name), "admin_actions", type_="check")
        op.create_check_constraint(op.f(name), "admin_actions", f"action IN ({_known(made)})")
        return
    made = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'admin_actions'")).scalar_one()
    changed = re.sub(r"action IN \([^)]*\)", lambda found: f"action IN ({_known(found[0])})", made)
    changed = re.sub(r"^CREATE TABLE \"?admin_actions\"?", "CREATE TABLE admin_actions_new", changed)
    connection.execute(sa.text(changed))
    connection.execute(sa.text("INSERT INTO admin_actions_new SELECT * FROM admin_actions"))
    connection.execute(sa.text("DROP TABLE admin_actions"))
    connection.execute(sa.text("ALTER TABLE admin_actions_new RENAME TO admin_actions"))
    op.create_index("ix_admin_actions_account", "admin_actions", ["account_id", "id"], unique=False)


def _known(check: str) -> str:
    """Return the actions that a CHECK names, and the new one."""
    return ", ".join(f"'{action}'" for action in (*re.findall(r"'(\w+)'", check), *_NEW))
