"""Add the number of delivered bytes to generations."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add a nullable column. No row is rewritten, so this is fast on a large table too."""
    op.add_column("generations", sa.Column("delivered_bytes", sa.BigInteger().with_variant(sa.Integer(), "sqlite")))
