"""Which upstreams were asked for a generation, and what the one that answered charges."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Two columns that may be empty."""
    op.add_column("generations", sa.Column("attempts", sa.Text()))
    op.add_column("generations", sa.Column("purchase", sa.BigInteger().with_variant(sa.Integer(), "sqlite")))
