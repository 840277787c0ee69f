"""What the commands share: their options, their errors, and opening a data folder to read from it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Connection

    from hilum.runtime.cluster import Cluster
    from hilum.runtime.config import Site

Command = TypeVar("Command", bound=Callable[..., Any])


class Unusable(click.ClickException):
    """What was asked for can't be started as it is: one line that says why, exit code 2."""

    exit_code = 2


def data_option(command: Command) -> Command:
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("hilum-data"),
        show_default=True,
        help="The folder that holds everything Hilum keeps.",
    )(command)


def config_option(command: Command) -> Command:
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="hilum.toml: AE title, peers, rules, destinations, time zone. docs/hilum.example.toml explains each key.",
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def read_site(config: Path | None) -> "Site":
    """The configuration; a wrong one ends the command with the key and its line."""
    from hilum.runtime.config import ConfigError, load

    try:
        return load(config)
    except ConfigError as error:
        raise Unusable(str(error)) from error


def running_config(data: Path) -> Path | None:
    """The configuration that the last `hilum up` of this folder ran with."""
    path = data / "run" / "hilum.toml"
    return path if path.exists() else None


def cluster_of(data: Path, config: Path | None) -> "Cluster | None":
    """Where this site's database is, by the configuration given or by the one that the folder last ran with."""
    return read_site(config or running_config(data)).cluster


@contextmanager
def ledger_of(data: Path, *, cluster: "Cluster | None" = None, write: bool = False) -> "Iterator[Connection]":
    """A consistent view of the site's database; with `write`, a transaction that may change it.

    It is the one of `cluster`, or without a cluster the one in the data folder.
    """
    if cluster is None and not (data / "hilum.db").exists():
        raise Unusable(f"{data} holds no Hilum data; start Hilum with: hilum up --data {data}")
    from sqlalchemy.exc import DBAPIError

    from hilum.adapters.sql.database import database_path, has_schema, open_state, reading, transaction, trouble
    from hilum.domain.errors import Busy
    from hilum.runtime.cluster import SecretMissing

    path = database_path(data) if cluster is None else "the cluster's database"
    try:
        engine = open_state(data, cluster, application="hilum-command")
    except SecretMissing as error:
        raise Unusable(str(error)) from error
    try:
        if not has_schema(engine):
            raise Unusable(f"{path} does not have this release's tables yet; start Hilum with: hilum up --data {data}")
        with transaction(engine) if write else reading(engine) as connection:
            yield connection
    except Busy as error:
        raise Unusable(f"{path}: {error.reason}") from error
    except DBAPIError as error:
        raise Unusable(f"{path} can't be used ({trouble(error)}); hilum doctor --data {data} says more") from error
    finally:
        engine.dispose()


def terminal() -> "Console":
    """Standard output; wide enough for a table where it is not a terminal."""
    import sys

    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 240, highlight=False, soft_wrap=not sys.stdout.isatty())
