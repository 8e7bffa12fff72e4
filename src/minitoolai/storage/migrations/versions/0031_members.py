"""Members of accounts with roles and budgets, invitations, the team's log; the account in which a session works."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ROLES = "role = 'owner' OR role = 'admin' OR role = 'developer' OR role = 'billing' OR role = 'viewer'"


def _of_account(table: str, column: str = "account_id") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], ["accounts.id"], name=op.f(f"fk_{table}_{column}"))


def upgrade() -> None:
    """Add four tables and two columns. Every user becomes the owner of the account that they opened."""
    op.create_table(
        "team_budgets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("daily", Int64, nullable=True),
        sa.Column("monthly", Int64, nullable=True),
        sa.Column("total", Int64, nullable=True),
        sa.Column("created_ms", Int64, nullable=False),
        _of_account("team_budgets"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_team_budgets")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_team_budgets_account_id"), "team_budgets", ["account_id"], unique=False)
    op.create_table(
        "members",
        sa.Column("account_id", Int64, autoincrement=False, nullable=False),
        sa.Column("user_id", Int64, autoincrement=False, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("budget_id", sa.Text(), nullable=True),
        sa.CheckConstraint(ROLES, name=op.f("ck_members_role_known")),
        _of_account("members"),
        _of_account("members", "user_id"),
        sa.ForeignKeyConstraint(["budget_id"], ["team_budgets.id"], name=op.f("fk_members_budget_id")),
        sa.PrimaryKeyConstraint("account_id", "user_id", name=op.f("pk_members")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("ix_members_user_id", "members", ["user_id"], unique=False)
    op.create_table(
        "invitations",
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("invited_by", Int64, nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.Column("expires_ms", Int64, nullable=False),
        sa.CheckConstraint(ROLES, name=op.f("ck_invitations_role_known")),
        _of_account("invitations"),
        _of_account("invitations", "invited_by"),
        sa.PrimaryKeyConstraint("secret_hash", name=op.f("pk_invitations")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_invitations_expires_ms"), "invitations", ["expires_ms"], unique=False)
    op.create_index("ix_invitations_account_id", "invitations", ["account_id", "email"], unique=False)
    op.create_table(
        "member_actions",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("user_id", Int64, nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("created_ms", Int64, nullable=False),
        _of_account("member_actions"),
        _of_account("member_actions", "user_id"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_member_actions")),
        sqlite_strict=True,
    )
    op.create_index("ix_member_actions_account", "member_actions", ["account_id", "id"], unique=False)
    op.add_column("sessions", sa.Column("working_id", Int64, nullable=True))
    op.add_column("api_keys", sa.Column("member_id", Int64, nullable=True))
    op.execute(
        "INSERT INTO members (account_id, user_id, role, created_ms)"
        " SELECT account_id, account_id, 'owner', created_ms FROM users WHERE deleted_ms IS NULL"
    )
    # Until now an account had one user, so all of its keys are theirs.
    op.execute("UPDATE api_keys SET member_id = account_id WHERE account_id IN (SELECT account_id FROM members)")
