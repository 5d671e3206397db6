"""Alembic's entry point: migrate over the connection that the program hands in."""

from alembic import context

from annotate.store.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
