"""Uploaded images of image jobs, so that each is deleted with its job."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"

Int64 = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the table. It has no foreign key: a row is written before its job."""
    op.create_table(
        "job_inputs",
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("job_id", Int64, nullable=False),
        sa.Column("created_ms", Int64, nullable=False),
        sa.PrimaryKeyConstraint("object_key", name=op.f("pk_job_inputs")),
        sqlite_strict=True,
    )
    op.create_index("ix_job_inputs_job", "job_inputs", ["job_id"])
