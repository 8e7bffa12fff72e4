"""How many tokens the streamed responses of each model and day had, and how long they took after the first one."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add two columns. Requests that are already counted have no speed."""
    for name in ("streamed_tokens", "streaming_ms"):
        op.add_column("traffic_days", sa.Column(name, Int64, nullable=False, server_default="0"))
