"""`hilum studies`: the reading list."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hilum_standalone.options import (
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

    from hilum.adapters.sql.ledger_values import StudyRow
    from hilum.domain.worklist import Place
    from hilum.runtime.config import Worklist


PAGE_ROWS = 200


@click.command()
@click.option("--all", "everything", is_flag=True, help="Every study that ever arrived, newest images first.")
@click.option("--page", type=click.IntRange(min=1), default=1, help=f"Which {PAGE_ROWS} of them; 1 without it.")
@data_option
@config_option
@json_option
def studies(everything: bool, page: int, data: Path, config: Path | None, as_json: bool) -> None:
    """List the studies in reading order, each with its state, findings and the reason for its place.

    A study leaves the list some time after the AI ended with it ([worklist] keep_ended_h); --all has it still.
    """
    import json

    site = read_site(config or running_config(data))
    worklist = site.worklist
    with ledger_of(data, cluster=site.cluster) as connection:
        placed, listed, known = _page(connection, worklist, everything, page)
    if as_json:
        click.echo(json.dumps([_as_json(row, place) for row, place in placed], indent=2, ensure_ascii=False))
    elif placed:
        terminal().print(table(placed))
    elif not known:
        click.echo("No study has arrived yet.")
    count = known if everything else listed
    if count > page * PAGE_ROWS:
        click.echo(f"{count - page * PAGE_ROWS} more: --page {page + 1}", err=True)
    if not everything and known > listed:
        click.echo(f"{known - listed} more left the reading list: hilum studies --all", err=True)


def _page(
    connection: "Connection", worklist: "Worklist", everything: bool, page: int
) -> "tuple[list[tuple[StudyRow, Place | None]], int, int]":
    """The rows of one page with their places, how many studies are on the reading list, and how many there are."""
    from hilum.adapters.sql.clock import clock_of
    from hilum.adapters.sql.ledger import count_studies, list_studies, study_rows
    from hilum.adapters.sql.reading_list import reading_list
    from hilum.domain.worklist import reading_order

    now, start = clock_of(connection.engine).now(), (page - 1) * PAGE_ROWS
    standings = reading_list(connection, ended_since=now - worklist.keep_ended)
    places = reading_order([standing.entry for standing in standings], worklist.to_domain(), now=now)
    place_of = {place.entry.study_instance_uid: place for place in places}
    if everything:
        rows = list_studies(connection, limit=PAGE_ROWS, offset=start)
    else:
        rows = study_rows(connection, [*place_of][start : start + PAGE_ROWS])
    return [(row, place_of.get(row.study_uid)) for row in rows], len(places), count_studies(connection)


def _as_json(row: "StudyRow", place: "Place | None") -> dict[str, Any]:
    """Without a place, the values of the place are null."""
    return {
        **row.to_json(),
        "position": place.position if place else None,
        "priority": place.priority.value if place else None,
        "overdue": place.overdue if place else None,
        "place_reason": place.reason if place else None,
    }


def table(placed: "list[tuple[StudyRow, Place | None]]") -> Any:
    """A rich table of studies; a study without a place is not on the reading list."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("#", "State", "Findings", "Modality", "Description", "Deliveries", "Why here", "Study UID"):
        shown.add_column(name, no_wrap=name == "Study UID", overflow="fold")
    for row, place in placed:
        cells = (
            str(place.position) if place else "",
            str(row.state),
            findings_text(row),
            row.modality,
            row.description,
            deliveries_text(row),
            place.reason if place else "ended some time ago",
            row.study_uid,
        )
        shown.add_row(*(Text(cell) for cell in cells))  # texts of images are never markup
    return shown


def findings_text(row: "StudyRow") -> str:
    """Findings in one line; for a study without any, why."""
    named = [f"{f.label} {f.probability:.2f}" for f in row.findings]
    named += [f"{label} (no box)" for label in row.ungrounded]
    return ", ".join(named) or row.reason


def deliveries_text(row: "StudyRow") -> str:
    """How many deliveries stand where; a parked one with its destination and the reason, since it needs a person."""
    from collections import Counter

    from hilum.domain.results import DeliveryState

    parked = [
        f"{d.format} to {d.destination} parked: {d.reason}" for d in row.deliveries if d.state is DeliveryState.PARKED
    ]
    others = Counter(d.state for d in row.deliveries if d.state is not DeliveryState.PARKED)
    return "; ".join([*parked, *(f"{count} {state}" for state, count in sorted(others.items()))])
