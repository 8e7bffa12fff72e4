"""Units and prices of a generation by bucket, where its input and output columns do not say all."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0014"


def upgrade() -> None:
    """Add a column without a default, which neither database writes into the existing rows."""
    op.add_column("generations", sa.Column("price_split", sa.Text()))
