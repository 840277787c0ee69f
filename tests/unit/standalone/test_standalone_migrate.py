"""`hilum migrate` on the data folder's SQLite and on a cluster's PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hilum.adapters.sql.database import REVISION, database_path, has_schema, open_database
from hilum.testing.postgresql import Database, Postgresql
from hilum_standalone.__main__ import main


@pytest.fixture
def empty_postgresql(postgresql_server: Postgresql) -> Iterator[Database]:
    database = postgresql_server.database(schema=False)
    yield database
    postgresql_server.drop(database)


def run(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, ["migrate", *(str(argument) for argument in arguments)])


def cluster(folder: Path, database: Database) -> Path:
    """A configuration whose password is in a file."""
    password = folder / "password"
    password.write_text(database.password.get_secret_value())
    path = folder / "hilum.toml"
    path.write_text(
        f"[cluster]\ndatabase = '{database.url}'\ndatabase_password_file = '{password}'\nkafka = ['127.0.0.1:1']\n"
        "redis = 'redis://127.0.0.1:1/0'\ninstances = '/mnt'\n"
    )
    return path


def test_it_makes_the_schema_says_so_and_can_be_run_again(tmp_path: Path) -> None:
    assert run("--data", tmp_path).output == f"schema {REVISION}, was empty\n"
    assert run("--data", tmp_path).output == f"schema {REVISION} as before\n"
    assert has_schema(open_database(database_path(tmp_path)))


def test_with_a_cluster_it_is_the_cluster_s_database(tmp_path: Path, empty_postgresql: Database) -> None:
    config = cluster(tmp_path, empty_postgresql)
    assert run("--config", config, "--data", tmp_path / "none", "--to", "0003").output == "schema 0003, was empty\n"
    sql = run("--config", config, "--sql").output
    assert "ALTER TABLE study_senders ADD COLUMN number" in sql
    assert run("--config", config).output == f"schema {REVISION}, was 0003\n"
    assert not database_path(tmp_path).exists()


def test_what_it_can_t_do_is_said_in_one_line(tmp_path: Path) -> None:
    cases: tuple[tuple[list[str | Path], str], ...] = (
        (["--data", tmp_path, "--to", "4711"], "there is no revision 4711"),
        (["--data", tmp_path, "--sql"], "SQLite's tables are changed by copying them"),
        (["--data", tmp_path / "none"], "does not exist, and the configuration has no [cluster]"),
    )
    for arguments, reason in cases:
        done = run(*arguments)
        assert done.exit_code == 2
        assert reason in done.output
        assert done.output.count("\n") == 1


def test_a_server_that_is_away_or_refuses_the_password_is_named(tmp_path: Path, empty_postgresql: Database) -> None:
    config = cluster(tmp_path, empty_postgresql)
    (tmp_path / "password").write_text("wrong")
    done = run("--config", config)
    assert done.exit_code == 1
    assert "password authentication failed" in done.output
    (tmp_path / "password").unlink()
    assert "can't be read" in run("--config", config).output
