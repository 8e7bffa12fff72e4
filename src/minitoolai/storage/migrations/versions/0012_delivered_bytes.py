"""How many bytes a generation delivered."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add a column that may be empty: no row is rewritten, so it takes no longer where there are millions."""
    op.add_column("generations", sa.Column("delivered_bytes", sa.BigInteger().with_variant(sa.Integer(), "sqlite")))
