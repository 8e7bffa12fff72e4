"""Reloads of the catalog in the log of admin actions; usage by day of the buckets with a price of their own."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

_OLD, _NEW = "'grant', 'revoke_keys'", "'grant', 'revoke_keys', 'reload_catalog'"


_PARTS = {
    "sqlite": (
        "json_each(g.price_split) AS p",
        *(f"json_extract(p.value, '$[{index}]')" for index in range(3)),
    ),
    "postgresql": (
        "jsonb_array_elements(g.price_split::jsonb) AS p(value)",
        "(p.value ->> 0)",
        "(p.value ->> 1)::bigint",
        "(p.value ->> 2)::bigint",
    ),
}


def upgrade() -> None:
    """Change the log, then create the table and fill it from the generations that have a split."""
    _allow_reloads()
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "usage_buckets",
        sa.Column("account_id", integer, nullable=False, autoincrement=False),
        sa.Column("day", integer, nullable=False, autoincrement=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "model", "key_id", "bucket")),
        *(sa.Column(name, integer, nullable=False) for name in ("units", "cost")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_usage_buckets_account_id")),
        sa.PrimaryKeyConstraint("account_id", "day", "kind", "model", "key_id", "bucket", name="pk_usage_buckets"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_buckets_day", "usage_buckets", ["day"])
    connection = op.get_bind()
    source, bucket, units, price = _PARTS[connection.dialect.name]
    nano = f"({units} * ({price} / 1000) + {units} * ({price} - {price} / 1000 * 1000) / 1000)"
    key = f"g.account_id, g.created_ms / 86400000, g.kind, g.model, g.key_id, {bucket}"
    connection.exec_driver_sql(
        f"INSERT INTO usage_buckets SELECT {key}, sum({units}), sum({nano})"
        f" FROM generations g JOIN holds h ON h.id = g.id JOIN {source} ON 1 = 1"
        f" WHERE g.price_split IS NOT NULL AND h.state <> 'pending' AND {bucket} NOT IN ('input', 'output')"
        f" GROUP BY {key}"
    )


def _allow_reloads() -> None:
    """Allow one more action. SQLite cannot change a CHECK, so the table, which is small, is made again there."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        op.drop_constraint(op.f("ck_admin_actions_action_known"), "admin_actions", type_="check")
        op.create_check_constraint(op.f("ck_admin_actions_action_known"), "admin_actions", f"action IN ({_NEW})")
        return
    made = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'admin_actions'")).scalar_one()
    changed = re.sub(r"^CREATE TABLE \"?admin_actions\"?", "CREATE TABLE admin_actions_new", made.replace(_OLD, _NEW))
    connection.execute(sa.text(changed))
    connection.execute(sa.text("INSERT INTO admin_actions_new SELECT * FROM admin_actions"))
    connection.execute(sa.text("DROP TABLE admin_actions"))
    connection.execute(sa.text("ALTER TABLE admin_actions_new RENAME TO admin_actions"))
    op.create_index("ix_admin_actions_account", "admin_actions", ["account_id", "id"], unique=False)
