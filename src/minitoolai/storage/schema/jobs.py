"""Tables of image jobs: inputs, workers and webhooks."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text

from minitoolai.storage.schema.base import Int64, metadata, partial_index

outbox = Table(
    "outbox",
    metadata,
    Column("id", Int64, primary_key=True),
    # One message per finished job or notice, however many delivery attempts it takes.
    Column("generation_id", Int64, ForeignKey("generations.id"), unique=True),
    Column("account_id", Int64, ForeignKey("accounts.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_ms", Int64, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Column("finished_ms", Int64),
    Column("notice_id", Int64, ForeignKey("notices.id"), unique=True),
    CheckConstraint("(generation_id IS NULL) <> (notice_id IS NULL)", name="one_subject"),
    CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state_known"),
    CheckConstraint("(state = 'pending') = (finished_ms IS NULL)", name="finished_means_over"),
    partial_index("ix_outbox_due", "next_ms", where="state = 'pending'"),
    partial_index("ix_outbox_finished", "finished_ms", where="state <> 'pending'"),
    Index("ix_outbox_account", "account_id", "id"),
    sqlite_strict=True,
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("outbox_id", Int64, ForeignKey("outbox.id"), primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", Int64, nullable=False),
    Column("duration_ms", Int64, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    CheckConstraint("(status IS NULL) = (error IS NOT NULL)", name="an_answer_or_an_error"),
    sqlite_strict=True,
)

#: Objects that hold the uploaded images of image jobs. A row is written before its object and its job, and removed
#: after the object, so that no upload outlives its job (storage/tables/job_inputs.py).
job_inputs = Table(
    "job_inputs",
    metadata,
    Column("object_key", Text, primary_key=True),
    Column("job_id", Int64, nullable=False),
    Column("created_ms", Int64, nullable=False),
    Index("ix_job_inputs_job", "job_id"),
    sqlite_strict=True,
)

#: Worker processes on a shared database: the models they can run, and when they last reported.
workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("offers", Text, nullable=False),
    Column("seen_ms", Int64, nullable=False),
    # PostgreSQL's process ID of the session that the worker keeps open. NULL: it is known to be gone.
    Column("presence", Int64),
    sqlite_strict=True,
)

#: Steps of the jobs that a worker runs, as JSON: one row a worker, because a row a job would be rewritten four times a
#: second each. Like the next table it is unlogged on PostgreSQL, so a crash of the server may empty it.
worker_steps = Table(
    "worker_steps",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("steps", Text, nullable=False),
    sqlite_strict=True,
)

#: Servers that a worker placed on a cluster, with the secret that each asks for: they last as long as their worker.
placed_servers = Table(
    "placed_servers",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("engine", Text, nullable=False),
    Column("secret", Text, nullable=False),
    sqlite_strict=True,
)
