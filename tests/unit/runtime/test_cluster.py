"""`[cluster]` of `hilum.toml`: what is accepted, where passwords may stand, and that none is ever shown."""

from pathlib import Path

import pytest

from hilum.runtime.cluster import Cluster, SecretMissing
from hilum.runtime.config import ConfigError, parse

WHOLE = {
    "database": "'postgresql+psycopg://hilum@db.example:5432/hilum'",
    "kafka": "['one.example:9092', 'two.example:9092']",
    "redis": "'redis://cache.example:6379/0'",
    "instances": "'/mnt/share/hilum'",
}


def text(**changed: str | None) -> str:
    values = {**WHOLE, **changed}
    return "[cluster]\n" + "\n".join(f"{key} = {value}" for key, value in values.items() if value is not None)


def cluster(**changed: str | None) -> Cluster:
    found = parse(text(**changed)).cluster
    assert found is not None
    return found


def test_one_machine_has_no_cluster() -> None:
    assert parse("").cluster is None


def test_four_lines_are_a_cluster() -> None:
    found = cluster()
    assert found.kafka == ("one.example:9092", "two.example:9092")
    assert found.instances_kind == "folder"


@pytest.mark.parametrize("key", list(WHOLE))
def test_all_four_are_required(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"cluster\.{key}: Field required"):
        parse(text(**{key: None}))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("database", "'postgresql://hilum:geheim@db/hilum'", "cluster.database: Value error, no password here"),
        ("database", "'postgresql://hilum@db/hilum?password=geheim'", "cluster.database: Value error, no password"),
        ("database", "'mysql://hilum@db/hilum'", "cluster.database: Value error, expected postgresql"),
        ("database", "'postgresql://hilum@db:port/hilum'", "cluster.database: Value error, expected postgresql"),
        ("database", "'postgresql://db/hilum'", "cluster.database: Value error, expected postgresql"),
        ("database", "'postgresql://hilum@db'", "cluster.database: Value error, expected postgresql"),
        ("kafka", "[]", "cluster.kafka: Tuple should have at least 1 item"),
        ("kafka", "['broker']", "cluster.kafka.0: String should match pattern"),
        ("redis", "'redis://:geheim@cache:6379/0'", "cluster.redis: Value error, no password here"),
        ("redis", "'http://cache'", "cluster.redis: Value error, expected redis"),
        ("instances", "'share'", "cluster.instances: Value error, expected an absolute folder"),
        ("instances", "'/mnt/../etc'", "cluster.instances: Value error, expected an absolute folder"),
        ("instances", "'s3://'", "cluster.instances: Value error, expected s3://bucket/prefix"),
        ("s3_region", "'eu-1'", "s3_endpoint and s3_region need instances"),
        ("passwort", "'geheim'", "cluster.passwort: unknown key"),
    ],
)
def test_a_mistake_is_named_and_its_value_never_shown(key: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text(**{key: value}))
    assert expected in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_password_comes_from_its_file_or_else_from_the_environment(tmp_path: Path) -> None:
    environment = {"HILUM_DATABASE_PASSWORD": "of the environment", "HILUM_REDIS_PASSWORD": "another"}
    (tmp_path / "password").write_text("of the file\n")
    for found, expected in (
        (cluster().database_password(environment), "of the environment"),
        (cluster(database_password_file=f"'{tmp_path}/password'").database_password(environment), "of the file"),
        (cluster().redis_password(environment), "another"),
    ):
        assert found is not None
        assert found.get_secret_value() == expected
        assert expected not in repr(found)
    assert cluster().database_password({}) is None


def test_a_password_file_that_is_away_is_named(tmp_path: Path) -> None:
    away = tmp_path / "away"
    with pytest.raises(SecretMissing, match=f"{away} can't be read: FileNotFoundError"):
        cluster(redis_password_file=f"'{away}'").redis_password({"HILUM_REDIS_PASSWORD": "not this one"})


def test_s3_takes_both_keys_or_none() -> None:
    found = cluster(instances="'s3://bucket/prefix'", s3_endpoint="'http://127.0.0.1:7070'", s3_region="'eu-1'")
    assert found.instances_kind == "s3"
    assert found.s3_keys({}) is None
    keys = found.s3_keys({"HILUM_S3_ACCESS_KEY": "a", "HILUM_S3_SECRET_KEY": "b"})
    assert keys is not None
    assert [key.get_secret_value() for key in keys] == ["a", "b"]
    with pytest.raises(SecretMissing, match="HILUM_S3_SECRET_KEY"):
        found.s3_keys({"HILUM_S3_ACCESS_KEY": "a"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kafka_key_file": "'/k.pem'"}, "kafka_certificate_file and kafka_key_file are given together"),
        (
            {"kafka_key_file": "'/k.pem'", "kafka_certificate_file": "'/c.pem'"},
            "kafka_certificate_file needs kafka_tls = true or a kafka_ca_file",
        ),
        ({"kafka_user": "'hilum'", "kafka_sasl": "'PLAIN'"}, "sends the password as it is: use kafka_tls"),
        ({"kafka_sasl": "'GSSAPI'"}, "cluster.kafka_sasl"),
        ({"kafka_prefix": "'a b'"}, "cluster.kafka_prefix"),
    ],
)
def test_options_of_kafka_that_do_not_fit_are_refused(options: dict[str, str | None], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse(text(**options))


def test_the_password_for_kafka_is_in_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("geheim\n")
    from_file = cluster(kafka_user="'hilum'", kafka_password_file=f"'{tmp_path}/password'").kafka_password({})
    assert from_file is not None
    assert from_file.get_secret_value() == "geheim"
    assert cluster().kafka_password({"HILUM_KAFKA_PASSWORD": "geheim"}) is None
    with pytest.raises(SecretMissing, match="kafka_user needs a password"):
        cluster(kafka_user="'hilum'").kafka_password({})
