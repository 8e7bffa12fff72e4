"""Holds of transcriptions: one more kind in the CHECK of `holds`."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"

_OLD = "kind = 'chat' OR kind = 'image' OR kind = 'speech'"
_NEW = f"{_OLD} OR kind = 'transcription'"
#: The words of a SQLite that refused migration 0011.
_OLDEST, _NEWEST = "kind IN ('chat', 'image', 'speech')", "kind IN ('chat', 'image', 'speech', 'transcription')"


def upgrade() -> None:
    """Allow the kind. On SQLite without touching a row, as migration 0011 does: holds may have millions of rows."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        op.drop_constraint(op.f("ck_holds_kind_known"), "holds", type_="check")
        op.create_check_constraint(op.f("ck_holds_kind_known"), "holds", _NEW)
        return
    made = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'holds'")).scalar_one()
    changed = made.replace(_OLD, _NEW).replace(_OLDEST, _NEWEST)
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
