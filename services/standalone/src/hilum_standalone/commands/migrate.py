"""`hilum migrate`: the schema of the database that the configuration names, up to this release or back."""

from pathlib import Path

import click

from hilum_standalone.options import Unusable, config_option, data_option, read_site


@click.command()
@click.option("--to", "target", default="head", show_default=True, metavar="REVISION", help="0001 …, head or base.")
@click.option("--sql", "only_sql", is_flag=True, help="Print the SQL for PostgreSQL and change nothing.")
@data_option
@config_option
def migrate(target: str, only_sql: bool, data: Path, config: Path | None) -> None:
    """Bring the database to this release's schema, or to another revision.

    The database is the one of [cluster] in the configuration, else the one in the data folder. Services of the release
    before may go on meanwhile. It can be run again at any time, also by two at once.
    """
    from sqlalchemy.exc import DBAPIError

    from hilum.adapters.sql.database import open_state, reading, revision_in, trouble
    from hilum.adapters.sql.schema import CannotMigrate, migration_sql
    from hilum.adapters.sql.schema import migrate as run
    from hilum.domain.errors import Busy
    from hilum.runtime.cluster import SecretMissing

    site = read_site(config)
    if site.cluster is None and not data.exists():
        raise Unusable(f"{data} does not exist, and the configuration has no [cluster]")
    try:
        engine = open_state(data, site.cluster, application="hilum migrate")
    except SecretMissing as error:
        raise Unusable(str(error)) from error
    try:
        if only_sql:
            click.echo(migration_sql(engine, to=target), nl=False)
            return
        with reading(engine) as connection:
            before = revision_in(connection)
        run(engine, to=target)
        with reading(engine) as connection:
            after = revision_in(connection)
    except CannotMigrate as error:
        raise Unusable(str(error)) from error
    except Busy as error:
        raise click.ClickException(f"{error.reason}; what was migrated stays, run it again") from error
    except DBAPIError as error:
        raise click.ClickException(f"the database refuses: {trouble(error)}") from error
    finally:
        engine.dispose()
    click.echo(f"schema {after or 'removed'}" + (" as before" if after == before else f", was {before or 'empty'}"))
