"""`hilum topics`: what the event log consists of, and bringing Kafka to it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hilum_standalone.options import Unusable, config_option, json_option, read_site, terminal

if TYPE_CHECKING:
    from hilum.adapters.kafka.topics import Step


@click.command()
@config_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 100),
    help="Copies of each new topic.  [default: 3, or 1 on fewer than three brokers]",
)
def topics(config: Path | None, as_json: bool, dry_run: bool, replicas: int | None) -> None:
    """Make the topics of the cluster's Kafka, add partitions and set what differs. Running it twice changes nothing.

    Nothing is deleted and no partition taken away. The exit code is 1 when something that was asked for is refused.
    Without [cluster] in the configuration it prints what is declared: on one machine there is nothing to make.
    """
    from hilum.contracts.topics import TOPICS

    cluster = read_site(config).cluster
    if cluster is None:
        from hilum.adapters.kafka.topics import Step

        declared = [Step(topic, 0, 0, {}, "", "") for topic in TOPICS]
        _print(declared, as_json, lambda _step: "", "On one machine the event log is in hilum.db; nothing to make.")
        return
    steps = _apply(cluster, dry_run=dry_run, replicas=replicas)
    changed = sum(step.is_change for step in steps)
    done = "would change" if dry_run else "changed"
    _print(steps, as_json, _outcome, f"{changed} {done}." if changed else "Nothing to change.")
    if any(step.refused for step in steps):
        raise click.exceptions.Exit(1)


def _apply(cluster: Any, *, dry_run: bool, replicas: int | None) -> "list[Step]":
    from hilum.adapters.kafka.servers import Servers
    from hilum.adapters.kafka.topics import TopicAdmin
    from hilum.contracts.topics import TOPICS
    from hilum.domain.errors import Busy
    from hilum.runtime.cluster import SecretMissing

    try:
        admin = TopicAdmin(Servers.of(cluster))
        try:
            steps = admin.plan(TOPICS, replicas=replicas)
            for step in steps:
                if step.is_change and not dry_run:
                    admin.apply(step)
        finally:
            admin.close()
    except Busy as error:
        raise Unusable(error.reason) from error
    except SecretMissing as error:
        raise Unusable(str(error)) from error
    return steps


def _outcome(step: "Step") -> str:
    refused = f"refused: {step.refused}" if step.refused else ""
    return "; ".join(filter(None, [step.words, refused])) or "as declared"


def _print(steps: "list[Step]", as_json: bool, outcome: Any, closing: str) -> None:
    if as_json:
        import json

        click.echo(json.dumps([_as_json(step, outcome(step)) for step in steps], indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    shown = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("Topic", "Owner", "Key", "Partitions", "Days", "Cleanup", "Why", "Change"):
        shown.add_column(name, no_wrap=name == "Topic", overflow="fold")
    for step in steps:
        topic = step.topic
        cells = (topic.name, topic.owner, topic.key, topic.partitions, topic.retention_days, topic.cleanup, topic.why)
        shown.add_row(*(str(cell) for cell in cells), outcome(step))
    terminal().print(shown)
    click.echo(closing)


def _as_json(step: "Step", outcome: str) -> dict[str, Any]:
    topic = step.topic
    return {
        "topic": topic.name,
        "owner": topic.owner,
        "key": topic.key,
        "partitions": topic.partitions,
        "retention_days": topic.retention_days,
        "cleanup": topic.cleanup,
        "schema": topic.schema,
        "why": topic.why,
        "changed": step.is_change,
        "refused": step.refused,
        "outcome": outcome,
    }
