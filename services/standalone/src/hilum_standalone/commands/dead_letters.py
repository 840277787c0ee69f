"""`hilum dead-letters`: messages that no service could handle, and publishing them again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hilum_standalone.options import (
    Unusable,
    cluster_of,
    config_option,
    data_option,
    json_option,
    ledger_of,
    terminal,
)

if TYPE_CHECKING:
    from hilum.adapters.sql.dead_letters import Letter
    from hilum.runtime.cluster import Cluster

_ERRORS_SHOWN = 10


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that no service could handle: list, show, and publish again once the reason is mended.

    The revision that a dead letter names stands as failed in the ledger; a result that comes after all takes its place.
    What a message says is never printed: it may be anything.
    """


@dead_letters.command("list")
@data_option
@config_option
@json_option
@click.option("--all", "everything", is_flag=True, help="Also those that were published again.")
def list_(data: Path, config: Path | None, as_json: bool, everything: bool) -> None:
    """List them, newest first."""
    from hilum.adapters.sql.dead_letters import letters

    with ledger_of(data, cluster=cluster_of(data, config)) as connection:
        found = letters(connection, open_only=not everything)
    if as_json:
        click.echo(json.dumps([_as_json(letter) for letter in found], indent=2, ensure_ascii=False))
    elif found:
        terminal().print(_table(found))
    else:
        click.echo("No dead letter." if everything else "No dead letter waits.")


@dead_letters.command()
@click.argument("number", type=int, metavar="ID")
@data_option
@config_option
@json_option
def show(number: int, data: Path, config: Path | None, as_json: bool) -> None:
    """Show one: where it came from, why it is here, and which of its fields are wrong."""
    from hilum.adapters.sql.dead_letters import letters

    with ledger_of(data, cluster=cluster_of(data, config)) as connection:
        found = letters(connection, ids=[number])
    if not found:
        raise click.ClickException(f"{number}: no such dead letter")
    facts = _as_json(found[0]) | _about(found[0])
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        for line in lines:
            click.echo(f"{name.replace('_', ' ') + ':':<18} {'-' if line in (None, '') else line}")


@dead_letters.command()
@click.argument("numbers", type=int, nargs=-1, metavar="[ID]...")
@data_option
@config_option
@click.option("--all", "everything", is_flag=True, help="Every dead letter that waits.")
def replay(numbers: tuple[int, ...], data: Path, config: Path | None, everything: bool) -> None:
    """Publish these messages again, as they were and with their headers, and mark the letters.

    A message that still can't be handled comes back as a new dead letter. The exit code is 1 when one that was named
    could not be published again.
    """
    if bool(numbers) == everything:
        raise click.UsageError("say which: one or more IDs, or --all")
    cluster = cluster_of(data, config)
    with ledger_of(data, cluster=cluster, write=True) as connection:
        done, lines = _replay(connection, numbers, cluster)
    for line in lines:
        click.echo(line)
    if everything and not done:
        click.echo("No dead letter waits.")
    if not done.issuperset(numbers):
        raise click.exceptions.Exit(1)


def _replay(connection: Any, numbers: Sequence[int], cluster: "Cluster | None") -> tuple[set[int], list[str]]:
    from hilum.adapters.eventlog import event_log
    from hilum.adapters.sql.clock import clock_of
    from hilum.adapters.sql.dead_letters import letters, replay
    from hilum.runtime.cluster import SecretMissing

    clock = clock_of(connection.engine)
    try:
        publisher = event_log(connection.engine, cluster, clock).publisher
    except SecretMissing as error:
        raise Unusable(str(error)) from error
    found = {letter.id: letter for letter in letters(connection, ids=numbers, open_only=not numbers)}
    done, lines = set[int](), [f"{number}: no such dead letter" for number in numbers if number not in found]
    for letter in sorted(found.values(), key=lambda letter: letter.id):  # in the order in which they came
        if replay(connection, publisher, letter, now=clock.now()):
            done.add(letter.id)
            lines.append(f"{letter.id}: published again on {letter.topic}")
        else:
            lines.append(f"{letter.id}: was published again before")
    return done, lines


def _as_json(letter: "Letter") -> dict[str, Any]:
    from hilum.contracts.trace import trace_id

    return {
        "id": letter.id,
        "at": letter.created_at.isoformat(timespec="seconds"),
        "group": letter.consumer_group,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "attempt": letter.attempt,
        "reason": letter.reason,
        "trace": trace_id(letter.headers),
        "replayed_at": letter.replayed_at.isoformat(timespec="seconds") if letter.replayed_at else None,
    }


def _about(letter: "Letter") -> dict[str, Any]:
    """What can be said of the message without quoting it."""
    from pydantic import ValidationError

    from hilum.contracts.catalogue import MESSAGES
    from hilum.contracts.topics import TOPICS
    from hilum.contracts.unhandled import notice

    content = letter.payload.encode("utf-8", "surrogatepass")
    schema = next((topic.schema for topic in TOPICS if topic.name == letter.topic), None)
    wrong: list[str] = []
    try:
        if schema is not None:
            MESSAGES[schema].model_validate_json(letter.payload)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        declared = _declared(MESSAGES[schema or ""])
        wrong = [_wrong(item["loc"], item["type"], declared) for item in found[:_ERRORS_SHOWN]]
        wrong += [f"and {len(found) - _ERRORS_SHOWN} more"] if len(found) > _ERRORS_SHOWN else []
    said = notice(
        letter.payload,
        group=letter.consumer_group,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        reason=letter.reason,
        attempt=letter.attempt,
        now=letter.created_at,
    )
    return {
        "study_instance_uid": said.study_instance_uid,
        "revision": said.revision,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "expected": schema,
        "wrong_fields": wrong or ["none: the message has the form of its topic" if schema else "unknown topic"],
    }


def _declared(message: Any) -> set[str]:
    """The names of all fields in a message and in its items. Other names come from the content."""
    schema = message.model_json_schema()
    return {name for part in (schema, *schema.get("$defs", {}).values()) for name in part.get("properties", {})}


def _wrong(place: tuple[int | str, ...], kind: str, declared: set[str]) -> str:
    parts = (str(part) if isinstance(part, int) or part in declared else "*" for part in place)
    return f"{'.'.join(parts) or 'the message'}: {kind}"


def _table(found: "list[Letter]") -> Any:
    from rich.table import Table
    from rich.text import Text

    shown = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("ID", "At", "Group", "Message", "Attempt", "Trace", "Published again", "Reason"):
        shown.add_column(name, no_wrap=name in ("ID", "At"), overflow="fold")
    for letter in found:
        row = _as_json(letter)
        place = f"{letter.topic}@{letter.partition}:{letter.offset}"
        cells = (row["id"], row["at"], row["group"], place, row["attempt"], row["trace"], row["replayed_at"] or "")
        shown.add_row(*(Text(str(cell)) for cell in (*cells, letter.reason)))
    return shown
