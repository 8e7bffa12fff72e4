"""Alembic's entry: runs the migrations on the connection that storage/migrate.py opened."""

from alembic import context

from minitoolai.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
