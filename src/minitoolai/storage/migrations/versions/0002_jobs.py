"""Jobs: what a generation that waits in the queue has beyond others."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_QUEUED = sa.text("state = 'queued'")
_DRAWN = sa.text("kind = 'image' AND state = 'running'")


def int64() -> sa.types.TypeEngine[int]:
    """64 bits on PostgreSQL, INTEGER on SQLite's STRICT tables."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """New columns, all of them empty for chats and speech; indices that hold only jobs under way."""
    for column in (
        sa.Column("size", sa.Text()),
        sa.Column("turn", int64()),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("webhook_url", sa.Text()),
    ):
        op.add_column("generations", column)
    for name, columns, where in (
        ("ix_generations_queue", ["turn", "created_ms", "id"], _QUEUED),
        ("ix_generations_queued", ["account_id", "turn"], _QUEUED),
        ("ix_generations_drawn", ["lease_until_ms"], _DRAWN),
    ):
        op.create_index(name, "generations", columns, sqlite_where=where, postgresql_where=where)
