"""Run by alembic. The connection comes from `shared.migrations.bring_up_to_date`, already inside its transaction."""

from __future__ import annotations

from alembic import context

from shared.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # SQLite can, once its driver is told not to commit on its own
)
with context.begin_transaction():
    context.run_migrations()
