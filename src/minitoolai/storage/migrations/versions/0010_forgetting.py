"""Words of jobs that are over are found by when they ended, to be forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """One partial index: empty once all words of that time are gone."""
    over = sa.text("kind = 'image' AND request IS NOT NULL AND finished_ms IS NOT NULL")
    op.create_index(
        "ix_generations_words", "generations", ["finished_ms"], unique=False, sqlite_where=over, postgresql_where=over
    )
