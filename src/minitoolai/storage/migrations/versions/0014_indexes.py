"""Indexes for deletion by time, unfinished payments and an account's vouchers, so that no query scans a whole table."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

#: Index → table, column and the condition of a partial index.
INDEXES = {
    "ix_sessions_expires_ms": ("sessions", "expires_ms", None),
    "ix_mail_links_expires_ms": ("mail_links", "expires_ms", None),
    "ix_webhook_events_seen_ms": ("webhook_events", "seen_ms", None),
    "ix_key_spending_created_ms": ("key_spending", "created_ms", "id NOT LIKE '%/total'"),
    "ix_outbox_finished": ("outbox", "finished_ms", "state <> 'pending'"),
    "ix_vouchers_account": ("vouchers", "account_id", "account_id IS NOT NULL"),
    "ix_payments_open": ("payments", "created_ms", "state = 'open'"),
    "ix_payments_owing": ("payments", "id", "moved > paid - reversed"),
}


def upgrade() -> None:
    """Create the indexes. None is of a table that every request writes."""
    for name, (table, column, where) in INDEXES.items():
        condition = None if where is None else sa.text(where)
        op.create_index(name, table, [column], sqlite_where=condition, postgresql_where=condition)
