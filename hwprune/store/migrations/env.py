"""How Alembic reaches the store: the connection is handed over by `database.py`; logging is left alone."""

from alembic import context

from hwprune.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
