"""`hilum send`: DICOM files to an application entity."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hilum_standalone.options import Unusable, data_option, terminal

if TYPE_CHECKING:
    from hilum_standalone.sender import Item, Outcome

_LISTED = 50


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--to", "to", required=True, metavar="AET@HOST:PORT", help="Where to, e.g. HILUM@127.0.0.1:11112.")
@click.option("--from", "calling", default="HILUM_SEND", show_default=True, help="The calling AE title.")
@data_option
def send(paths: tuple[Path, ...], to: str, calling: str, data: Path) -> None:
    """Send the files, and the files of the folders, at PATHS to an application entity (C-STORE).

    Each file goes in its own transfer syntax, unchanged. A DICOMDIR is passed over. Failures are listed with the
    peer's status; the exit code is 1 if any file was not stored.
    """
    from hilum_standalone.sender import Item, files_in, inspect, parse_target

    try:
        parse_target(to)
    except ValueError as error:
        raise Unusable(str(error)) from error
    looked_at = [inspect(path) for path in files_in(paths)]
    items = [found for found in looked_at if isinstance(found, Item)]
    failed = [found for found in looked_at if found is not None and not isinstance(found, Item)]
    if not items and not failed:
        raise Unusable("there is no file to send")
    total = len(items) + len(failed)
    sent, why = _send(items, to, calling, failed)
    console = terminal()
    console.print(f"{sent} of {total} files stored by {to}", markup=False)
    for outcome in failed[:_LISTED]:
        console.print(f"  {outcome.path}: {outcome.words}", markup=False)
    if len(failed) > _LISTED:
        console.print(f"  and {len(failed) - _LISTED} more")
    if why:
        raise click.ClickException(why)
    if failed:
        raise click.exceptions.Exit(1)


def _send(items: "list[Item]", to: str, calling: str, failed: "list[Outcome]") -> tuple[int, str]:
    """Sends with a progress bar and adds failures to the list; the number stored, and why it ended early."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hilum_standalone.sender import SendError, parse_target
    from hilum_standalone.sender import send as send_items

    sent = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("sending", total=len(items))

        def done(outcome: "Outcome") -> None:
            nonlocal sent
            sent += outcome.sent
            if not outcome.sent:
                failed.append(outcome)
            progress.advance(bar)

        try:
            send_items(items, parse_target(to), calling=calling, done=done)
        except SendError as error:
            return sent, str(error)
    return sent, ""
