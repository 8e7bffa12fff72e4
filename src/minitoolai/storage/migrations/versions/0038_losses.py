"""Attempts in a row that were lost with their worker, apart from those that failed."""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    """Add a column with a default, which rewrites no row."""
    op.add_column("generations", sa.Column("losses", sa.Integer(), server_default="0", nullable=False))
