"""`hilum doctor`: what is set up, what is missing, what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hilum_standalone.options import config_option, data_option, json_option, read_site, running_config, terminal

if TYPE_CHECKING:
    from hilum_standalone.diagnosis.check import Check


@click.command()
@data_option
@config_option
@json_option
def doctor(data: Path, config: Path | None, as_json: bool) -> None:
    """Say what is set up, what is missing and what to do. The exit code is 1 when something is red."""
    import dataclasses
    import json

    from hilum_standalone.diagnosis.check import Grade

    checks: list[Check] = []
    console = terminal()
    colours = {Grade.OK: "green", Grade.NOTE: "yellow", Grade.RED: "red"}
    for check in _checks(data, config):
        checks.append(check)
        if not as_json:
            console.print(f"{check.grade:<5}", style=colours[check.grade], end="")
            remedy = f" → {check.remedy}" if check.remedy else ""
            console.print(f"{check.what}: {check.found}{remedy}", markup=False)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2, ensure_ascii=False))
    if any(check.grade is Grade.RED for check in checks):
        raise click.exceptions.Exit(1)


def _checks(data: Path, config: Path | None) -> "Iterator[Check]":
    from hilum_standalone.diagnosis.machine import disk, machine, model

    yield from machine()
    site = read_site(config or running_config(data))
    from hilum_standalone.diagnosis.installation import installation
    from hilum_standalone.diagnosis.model_servers import model_servers
    from hilum_standalone.plan import checkpoint_of

    if site.model.servers:
        yield from model_servers(site.model, checkpoint_of(site))
    else:
        yield from model(checkpoint_of(site))
    yield disk(data, min_free_mb=site.listener.min_free_mb)
    yield from installation(data, site)
