"""`hilum reindex`: brings back into the index what only the lost database knew."""

from pathlib import Path

import click

from hilum_standalone.options import Unusable, config_option, data_option, json_option, ledger_of, read_site


@click.command()
@data_option
@config_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would be indexed.")
def reindex(data: Path, config: Path | None, as_json: bool, dry_run: bool) -> None:
    """Index the files of the spool that neither the database nor a journal knows, as if they had come in now.

    For a data folder whose hilum.db was lost or restored from an old copy: start Hilum, which folds the journals that
    are left, and then run this once, while Hilum runs. Studies that come back are examined and reported again. Their
    sender is given as "hilum reindex". Running it twice changes nothing.
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    from hilum_listener.handlers.receiver_lock import AlreadyRunning
    from hilum_listener.handlers.reindex import reindex as index_again
    from hilum_listener.settings import Places

    places = Places(data)
    if not places.journal.is_dir():
        raise Unusable(f"{data} holds no spool; start Hilum with: hilum up --data {data}")
    try:
        with ledger_of(data, cluster=read_site(config).cluster) as connection:
            done = index_again(places, connection, datetime.now(UTC), dry_run=dry_run)
    except AlreadyRunning as error:
        raise Unusable("another hilum reindex is at work on this folder") from error
    except OSError as error:
        raise Unusable(f"the spool can't be read or written: {error.strerror or type(error).__name__}") from error
    if as_json:
        import json

        click.echo(json.dumps(asdict(done), indent=2))
        return
    click.echo(f"{done.files} files in the spool, {done.known} of them known.")
    click.echo(f"{done.journaled} {'would be' if dry_run else 'are'} indexed again.")
    if done.being_received:
        click.echo(f"{done.being_received} are left alone: a receiver may be writing them.")
    if done.never_acknowledged:
        click.echo(f"{done.never_acknowledged} are left alone: no sender was ever told of them.")
