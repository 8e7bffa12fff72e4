"""Traffic by day for the dashboards, which starts empty; notes and views in the log of admin actions."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

_NEW = ("note", "view")


def upgrade() -> None:
    """Change the log, then create the table. A background task fills it (billing/traffic.py)."""
    _allow_actions()
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    sums = ("requests", "failures", "cost", "purchase", "timed", "duration_ms", "streamed", "first_token_ms")
    op.create_table(
        "traffic_days",
        sa.Column("account_id", integer, nullable=False, autoincrement=False),
        sa.Column("day", integer, nullable=False, autoincrement=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "model", "engine")),
        *(sa.Column(name, integer, nullable=False) for name in sums),
        sa.PrimaryKeyConstraint("account_id", "day", "kind", "model", "engine", name="pk_traffic_days"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("ix_traffic_days_day", "traffic_days", ["day", "account_id"])


def _allow_actions() -> None:
    """Allow more actions beside those that are allowed. SQLite cannot change a CHECK: the table is made again there."""
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
    """Return the actions that a CHECK names, and the new ones."""
    return ", ".join(f"'{action}'" for action in (*re.findall(r"'(\w+)'", check), *_NEW))
