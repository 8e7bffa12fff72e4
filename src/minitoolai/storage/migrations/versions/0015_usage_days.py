"""Usage by day, filled from the generations that are settled, and the table of closed days, which starts empty.

The rows are added up in pieces, each in a transaction of its own that also records how far it came. A migration that
is interrupted goes on there.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

#: Generations in one piece.
PIECE = 50_000
#: The row of `installation` that holds the last generation that is in the sums.
PLACE = "usage_days_filled_to"
BEFORE_EVERYTHING = -(2**63)

_FILL = """
    INSERT INTO usage_days (account_id, day, kind, model, key_id, requests, input_units, output_units, cost, purchase)
    SELECT g.account_id, g.created_ms / 86400000, g.kind, g.model, g.key_id, count(*), sum(g.input_units),
        sum(g.output_units), sum(h.settled), sum(coalesce(g.purchase, 0))
    FROM generations g JOIN holds h ON h.id = g.id
    WHERE g.id > :after AND g.id <= :until AND h.state <> 'pending'
    GROUP BY g.account_id, g.created_ms / 86400000, g.kind, g.model, g.key_id
    ON CONFLICT (account_id, day, kind, model, key_id) DO UPDATE SET
        requests = usage_days.requests + excluded.requests,
        input_units = usage_days.input_units + excluded.input_units,
        output_units = usage_days.output_units + excluded.output_units,
        cost = usage_days.cost + excluded.cost, purchase = usage_days.purchase + excluded.purchase"""


def upgrade() -> None:
    """Create the tables, unless an interrupted migration has, and add up what is missing."""
    if not sa.inspect(op.get_bind()).has_table("usage_days"):
        _create_tables()
    connection = op.get_bind()
    # storage/opening.py owns the transaction, not Alembic, so it may be committed here.
    connection.commit()
    while _fill_piece(connection):
        connection.commit()
    _run(connection, "DELETE FROM installation WHERE name = :name", name=PLACE)


def _create_tables() -> None:
    # The table that `upgrade` looks for comes last.
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    sums = ("requests", "input_units", "output_units", "cost", "purchase")
    op.create_index(
        "ix_transfers_external",
        "transfers",
        ["created_ms"],
        if_not_exists=True,
        sqlite_where=sa.text("kind <> 'usage'"),
        postgresql_where=sa.text("kind <> 'usage'"),
    )
    op.create_table(
        "audited_days",
        sa.Column("day", integer, nullable=False, autoincrement=False),
        *(sa.Column(name, integer, nullable=False) for name in (*sums, "external")),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("audited_ms", integer, nullable=False),
        sa.PrimaryKeyConstraint("day", name="pk_audited_days"),
        if_not_exists=True,
        sqlite_strict=True,
    )
    op.create_table(
        "audited_budgets",
        sa.Column("budget_id", sa.Text, nullable=False),
        sa.Column("settled", integer, nullable=False),
        sa.PrimaryKeyConstraint("budget_id", name="pk_audited_budgets"),
        if_not_exists=True,
        sqlite_strict=True,
    )
    keys = ("account_id", "day", "kind", "model", "key_id")
    op.create_table(
        "usage_days",
        sa.Column("account_id", integer, nullable=False),
        sa.Column("day", integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in keys[2:]),
        *(sa.Column(name, integer, nullable=False) for name in sums),
        sa.PrimaryKeyConstraint(*keys, name="pk_usage_days"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_usage_days_account_id"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_days_day", "usage_days", ["day"], if_not_exists=True)


def _fill_piece(connection: sa.Connection, piece: int = PIECE) -> bool:
    """Add the next generations to the sums, and record the place. Return False if there are none left."""
    place = _run(connection, "SELECT value FROM installation WHERE name = :name", name=PLACE).scalar()
    after = BEFORE_EVERYTHING if place is None else int(str(place))
    until = _run(
        connection,
        f"SELECT max(id) FROM (SELECT id FROM generations WHERE id > :after ORDER BY id LIMIT {piece}) AS piece",
        after=after,
    ).scalar()
    if until is None:
        return False
    _run(connection, _FILL, after=after, until=until)
    _run(
        connection,
        "INSERT INTO installation (name, value) VALUES (:name, :value)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        name=PLACE,
        value=str(until),
    )
    return True


def _run(connection: sa.Connection, sql: str, **values: object) -> sa.CursorResult[Any]:
    return connection.execute(sa.text(sql), values)
