"""`python -m hilum_standalone.chaos`: at least 200 faults over 500 studies, from a printed seed."""

import secrets
import tempfile
from pathlib import Path

import click

from hilum_standalone.chaos.run import Plan, chaos


@click.command()
@click.option("--studies", type=click.IntRange(min=1), default=500, show_default=True)
@click.option("--faults", type=click.IntRange(min=0), default=200, show_default=True)
@click.option("--senders", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--seed", type=int, help="The same faults in the same order.  [default: by chance]")
@click.option("--folder", type=click.Path(path_type=Path), help="Where everything is; removed when all went well.")
def main(studies: int, faults: int, senders: int, seed: int | None, folder: Path | None) -> None:
    """End with 1 when something was lost, came twice, or did not end."""
    folder = folder or Path(tempfile.mkdtemp(prefix="hilum-chaos-"))
    plan = Plan(secrets.randbelow(10**9) if seed is None else seed, studies, faults, senders)
    report = chaos(folder, plan, say=click.echo)
    for line in report.lines():
        click.echo(line)
    if report.wrong:
        click.echo(f"everything is in {folder}")
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
