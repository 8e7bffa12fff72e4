"""Holds of nothing, for free models; revenue with a known upstream cost; and where an admin's action came from."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OLD, _NEW = "amount > 0", "amount >= 0"
_NAME, _NEW_NAME = "ck_holds_amount_positive", "ck_holds_amount_not_negative"


def upgrade() -> None:
    """Loosen a CHECK of `holds` and add two columns. No row of a large table is written."""
    _allow_holds_of_nothing()
    op.add_column("admin_actions", sa.Column("source", sa.Text(), nullable=True))
    op.add_column("traffic_days", sa.Column("known", Int64, nullable=False, server_default="0"))
    # Requests that are already counted: what had an upstream cost is known, except where another request had none.
    op.execute("UPDATE traffic_days SET known = cost WHERE purchase > 0")


def _allow_holds_of_nothing() -> None:
    """On SQLite without touching a row, as migration 0011 does: holds may have millions of rows."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        op.drop_constraint(op.f(_NAME), "holds", type_="check")
        op.create_check_constraint(op.f(_NEW_NAME), "holds", _NEW)
        return
    made = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'holds'")).scalar_one()
    changed = made.replace(_NAME, _NEW_NAME).replace(_OLD, _NEW)
    connection.execute(sa.text("PRAGMA writable_schema = ON"))
    try:
        connection.execute(
            sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = 'holds'"), {"sql": changed}
        )
    except sa.exc.DatabaseError:
        is_protected = True
    else:
        is_protected = False
    finally:
        version = connection.execute(sa.text("PRAGMA schema_version")).scalar_one()
        connection.execute(sa.text(f"PRAGMA schema_version = {version + 1}"))
        connection.execute(sa.text("PRAGMA writable_schema = OFF"))
    if is_protected:
        _make_again(connection, changed)


def _make_again(connection: sa.Connection, changed: str) -> None:
    """Copy the table into one with the new CHECK, for a SQLite that is built to refuse changes of its schema table."""
    of_holds = "FROM sqlite_master WHERE type = 'index' AND tbl_name = 'holds' AND sql IS NOT NULL"
    indexes = connection.execute(sa.text(f"SELECT sql {of_holds}")).scalars().all()
    connection.execute(sa.text(re.sub(r"^CREATE TABLE \"?holds\"?", "CREATE TABLE holds_new", changed)))
    connection.execute(sa.text("INSERT INTO holds_new SELECT * FROM holds"))
    connection.execute(sa.text("DROP TABLE holds"))
    connection.execute(sa.text("ALTER TABLE holds_new RENAME TO holds"))
    for sql in indexes:
        connection.execute(sa.text(sql))
