"""`hilum deliveries`: what has not arrived yet, and putting back what is parked."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hilum_standalone.options import (
    cluster_of,
    config_option,
    data_option,
    json_option,
    ledger_of,
    read_site,
    running_config,
    terminal,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hilum.adapters.sql.ledger_deliveries import OpenDelivery
    from hilum.domain.results import Format
    from hilum_results.handlers.parked import PutBack

_WITHOUT_ID = "-"


@click.command()
@data_option
@config_option
@json_option
@click.option(
    "--retry",
    "ids",
    multiple=True,
    is_flag=False,
    flag_value=_WITHOUT_ID,
    metavar="ID",
    help="Put this parked delivery back in the queue. May be given several times; or --retry --all.",
)
@click.option("--all", "everything", is_flag=True, help="With --retry: every parked delivery that can be sent.")
def deliveries(data: Path, config: Path | None, as_json: bool, ids: tuple[str, ...], everything: bool) -> None:
    """List the deliveries that are parked (a person must look) or queued, each with its ID and the reason.

    With --retry, parked ones go back to the queue as they are: the same object with the same bytes. Hilum may run
    meanwhile and sends them within seconds; else they are sent after the next `hilum up`. The exit code is 1 when one
    that was named could not be put back.
    """
    import json

    named = _named(ids, everything)
    if named is None and not everything:
        from hilum.adapters.sql.ledger_deliveries import list_open_deliveries

        with ledger_of(data, cluster=cluster_of(data, config)) as connection:
            rows = list_open_deliveries(connection)
        if as_json:
            click.echo(json.dumps([row.to_json() for row in rows], indent=2, ensure_ascii=False))
        elif rows:
            terminal().print(_table(rows))
        else:
            click.echo("No delivery is parked or queued.")
        return
    served = _served(config, data)
    with ledger_of(data, cluster=cluster_of(data, config), write=True) as connection:
        done = _put_back(connection, named, served)
        missing = _missing(connection, named or [], done)
    if as_json:
        click.echo(json.dumps([_as_json(one) for one in done], indent=2, ensure_ascii=False))
    else:
        for one in done:
            click.echo(_line(one))
        if everything and not done:
            click.echo("No delivery is parked.")
    for line in missing:
        click.echo(line, err=True)
    if missing or (named is not None and any(one.state == "parked" for one in done)):
        raise click.exceptions.Exit(1)


def _named(ids: tuple[str, ...], everything: bool) -> list[int] | None:
    """The IDs of --retry; None when none was given."""
    if everything and ids != (_WITHOUT_ID,):
        raise click.UsageError("--all goes with --retry and without an ID: hilum deliveries --retry --all")
    if not ids or everything:
        return None
    if not all(one.isascii() and one.isdigit() for one in ids):
        raise click.UsageError("--retry takes the ID of a delivery (`hilum deliveries` lists them), or --all")
    return [int(one) for one in ids]


def _served(config: Path | None, data: Path) -> "dict[str, Format]":
    from hilum_results.settings import Settings

    return Settings.of(read_site(config or running_config(data)), data=data).served


def _put_back(connection: "Connection", named: list[int] | None, served: "dict[str, Format]") -> "list[PutBack]":
    from hilum.adapters.sql.clock import clock_of
    from hilum_results.handlers.parked import put_all_back, put_back

    now = clock_of(connection.engine).now()
    return put_all_back(connection, served, now=now) if named is None else put_back(connection, named, served, now=now)


def _missing(connection: "Connection", named: list[int], done: "list[PutBack]") -> list[str]:
    """A line for each named delivery that is not parked."""
    import sqlalchemy as sa

    from hilum.adapters.sql.tables import deliveries as table

    lines = []
    for number in [n for n in named if n not in {one.delivery_id for one in done}]:
        state = connection.execute(sa.select(table.c.state).where(table.c.id == number)).scalar()
        lines.append(f"{number}: is {state}, not parked" if state else f"{number}: no such delivery")
    return lines


def _as_json(one: "PutBack") -> dict[str, Any]:
    return {
        "id": one.delivery_id,
        "destination": one.destination,
        "format": one.format.value,
        "state": one.state.value,
        "reason": one.why,
    }


def _line(one: "PutBack") -> str:
    state = "still parked" if one.state == "parked" else one.state.value
    return f"{one.delivery_id}: {one.format} to {one.destination}: {state}: {one.why}"


def _table(rows: "list[OpenDelivery]") -> Any:
    from rich.table import Table
    from rich.text import Text

    shown = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("ID", "State", "Format", "Destination", "Attempts", "Study UID", "Revision", "Reason"):
        shown.add_column(name, no_wrap=name in ("ID", "Study UID"), overflow="fold")
    for row in rows:
        cells = (row.id, row.state, row.format, row.destination, row.attempts, row.study_uid, row.revision, row.reason)
        shown.add_row(*(Text(str(cell)) for cell in cells))  # a peer's words are never markup
    return shown
