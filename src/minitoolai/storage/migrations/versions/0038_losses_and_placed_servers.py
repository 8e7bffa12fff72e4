"""Attempts in a row that were lost with their worker, and servers that a worker placed on a cluster."""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    """Add a column with a default, which rewrites no row, and an empty table. On PostgreSQL that is unlogged."""
    op.add_column("generations", sa.Column("losses", sa.Integer(), server_default="0", nullable=False))
    unlogged = ["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else []
    op.create_table(
        "placed_servers",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("worker", "address", name=op.f("pk_placed_servers")),
        prefixes=unlogged,
        sqlite_strict=True,
    )
