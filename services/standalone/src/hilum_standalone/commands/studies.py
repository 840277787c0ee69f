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
    from hilum.adapters.sql.ledger_values import StudyRow
    from hilum.domain.worklist import Place


@click.command()
@data_option
@config_option
@json_option
def studies(data: Path, config: Path | None, as_json: bool) -> None:
    """List the studies in reading order, each with its state, findings and the reason for its place."""
    import json
    from datetime import UTC, datetime

    with ledger_of(data) as connection:
        from hilum.adapters.sql.ledger import list_studies, worklist_entry
        from hilum.domain.worklist import reading_order

        rows = {row.study_uid: row for row in list_studies(connection)}
    limits = read_site(config or running_config(data)).worklist.to_domain()
    places = reading_order([worklist_entry(row) for row in rows.values()], limits, now=datetime.now(UTC))
    if as_json:
        listed = [_as_json(rows[place.entry.study_instance_uid], place) for place in places]
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    if not places:
        click.echo("No study has arrived yet.")
        return
    terminal().print(table([(rows[place.entry.study_instance_uid], place) for place in places]))


def _as_json(row: "StudyRow", place: "Place") -> dict[str, Any]:
    return {
        **row.to_json(),
        "position": place.position,
        "priority": place.priority.value,
        "overdue": place.overdue,
        "place_reason": place.reason,
    }


def table(placed: "list[tuple[StudyRow, Place]]") -> Any:
    """A rich table of the reading list."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("#", "State", "Findings", "Modality", "Description", "Why here", "Study UID"):
        shown.add_column(name, no_wrap=name == "Study UID", overflow="fold")
    for row, place in placed:
        cells = (
            str(place.position),
            str(row.state),
            findings_text(row),
            row.modality,
            row.description,
            place.reason,
            row.study_uid,
        )
        shown.add_row(*(Text(cell) for cell in cells))  # texts of images are never markup
    return shown


def findings_text(row: "StudyRow") -> str:
    """Findings in one line; for a study without any, why."""
    named = [f"{f.label} {f.probability:.2f}" for f in row.findings]
    named += [f"{label} (no box)" for label in row.ungrounded]
    return ", ".join(named) or row.reason
