"""Alembic's environment: runs on the connection that hilum.adapters.sql.schema hands over, or only writes SQL."""

from alembic import context

from hilum.adapters.sql.tables import metadata

if context.is_offline_mode():
    context.configure(
        dialect_name=context.config.attributes["dialect"],
        target_metadata=metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
else:
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
    )
with context.begin_transaction():
    context.run_migrations()
