"""`[cluster]` of `hilum.toml`: where the servers are. Absent on one machine; when it is there, all four are named.

A password never stands in the configuration: it is in a file (`*_file`, as Kubernetes mounts a secret) or in the
environment, and the file counts when both are given.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

HostPort = Annotated[str, Field(pattern=r"^[^\s:/@\[\]]+:[0-9]{1,5}$|^\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}$")]
_DATABASE_SCHEMES = ("postgresql+psycopg", "postgresql")


class SecretMissing(Exception):
    """A secret can't be read, or a server needs one that is nowhere; the text says where it may stand."""


class Cluster(BaseModel):
    """The servers of a cluster.

    Attributes:
        database: `postgresql+psycopg://user@host:5432/name`, with libpq's parameters (sslmode, sslrootcert) as query.
        kafka: the bootstrap servers, each `host:port`. Over TLS with `kafka_tls`, or with a `kafka_ca_file` (PEM)
            beside the machine's authorities; `kafka_certificate_file` and `kafka_key_file` are Hilum's own. With a
            `kafka_user` by SASL; its password is in `kafka_password_file` or HILUM_KAFKA_PASSWORD.
        kafka_prefix: stands before every topic and consumer group, where others use the same Kafka.
        redis: `redis://` or `rediss://` (TLS).
        instances: an absolute folder that every service mounts at the same place, or `s3://bucket/prefix`.
        s3_endpoint: of a server that is not Amazon's.
        s3_cache_mb: how much of each data folder local copies may take, for services that read pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: str
    database_password_file: Path | None = None
    kafka: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    kafka_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,60}$")] = ""
    kafka_tls: bool = False
    kafka_ca_file: Path | None = None
    kafka_certificate_file: Path | None = None
    kafka_key_file: Path | None = None
    kafka_user: Annotated[str, Field(min_length=1)] | None = None
    kafka_sasl: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    kafka_password_file: Path | None = None
    redis: str
    redis_password_file: Path | None = None
    instances: str
    s3_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    s3_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    s3_cache_mb: int = Field(default=4096, ge=16)
    s3_access_key_file: Path | None = None
    s3_secret_key_file: Path | None = None

    @field_validator("database")
    @classmethod
    def _database(cls, text: str) -> str:
        parts = _server(text, "database", _DATABASE_SCHEMES)
        if not parts.username or not parts.path.strip("/"):
            raise ValueError("expected postgresql+psycopg://user@host:5432/name")
        if "password" in parts.query.lower():
            raise ValueError(_NO_PASSWORD.format(name="database", environment="HILUM_DATABASE_PASSWORD"))
        return text

    @field_validator("redis")
    @classmethod
    def _redis(cls, text: str) -> str:
        _server(text, "redis", ("redis", "rediss"))
        return text

    @field_validator("instances")
    @classmethod
    def _instances(cls, text: str) -> str:
        if text.startswith("s3://"):
            if not urlsplit(text).hostname:
                raise ValueError("expected s3://bucket/prefix")
        elif not text.startswith("/") or ".." in Path(text).parts:
            raise ValueError("expected an absolute folder or s3://bucket/prefix")
        return text

    @model_validator(mode="after")
    def _s3_options_need_s3(self) -> Self:
        if self.instances_kind == "folder" and (self.s3_endpoint or self.s3_region):
            raise ValueError("s3_endpoint and s3_region need instances = 's3://…'")
        return self

    @model_validator(mode="after")
    def _kafka_options_fit(self) -> Self:
        if (self.kafka_certificate_file is None) != (self.kafka_key_file is None):
            raise ValueError("kafka_certificate_file and kafka_key_file are given together or not at all")
        if self.kafka_certificate_file is not None and not self.kafka_over_tls:
            raise ValueError("kafka_certificate_file needs kafka_tls = true or a kafka_ca_file")
        if self.kafka_user is not None and self.kafka_sasl == "PLAIN" and not self.kafka_over_tls:
            raise ValueError("kafka_sasl = 'PLAIN' sends the password as it is: use kafka_tls or a kafka_ca_file")
        return self

    @property
    def kafka_over_tls(self) -> bool:
        return self.kafka_tls or self.kafka_ca_file is not None

    @property
    def instances_kind(self) -> Literal["folder", "s3"]:
        return "s3" if self.instances.startswith("s3://") else "folder"

    def database_password(self, environment: Mapping[str, str] = os.environ) -> SecretStr | None:
        """Raises: SecretMissing: the file can't be read. None: the server asks for none (peer, certificate)."""
        return _secret(self.database_password_file, environment, "HILUM_DATABASE_PASSWORD")

    def kafka_password(self, environment: Mapping[str, str] = os.environ) -> SecretStr | None:
        """As `database_password`; None when no `kafka_user` is given.

        Raises:
            SecretMissing: the file can't be read, or a user is given and no password.
        """
        if self.kafka_user is None:
            return None
        found = _secret(self.kafka_password_file, environment, "HILUM_KAFKA_PASSWORD")
        if found is None:
            raise SecretMissing("kafka_user needs a password: kafka_password_file or HILUM_KAFKA_PASSWORD")
        return found

    def redis_password(self, environment: Mapping[str, str] = os.environ) -> SecretStr | None:
        """As `database_password`."""
        return _secret(self.redis_password_file, environment, "HILUM_REDIS_PASSWORD")

    def s3_keys(self, environment: Mapping[str, str] = os.environ) -> tuple[SecretStr, SecretStr] | None:
        """Access key and secret key; None when neither is given (the machine's own role).

        Raises:
            SecretMissing: a file can't be read, or only one of the two is given.
        """
        access = _secret(self.s3_access_key_file, environment, "HILUM_S3_ACCESS_KEY")
        secret = _secret(self.s3_secret_key_file, environment, "HILUM_S3_SECRET_KEY")
        if access is None and secret is None:
            return None
        if access is None or secret is None:
            name = "HILUM_S3_ACCESS_KEY" if access is None else "HILUM_S3_SECRET_KEY"
            raise SecretMissing(f"of the two S3 keys one is missing: {name} or its file")
        return access, secret


_NO_PASSWORD = "no password here: it belongs in {name}_password_file or in {environment}"


def _server(text: str, name: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL without a password. The text may hold one, so no error quotes it."""
    try:
        parts = urlsplit(text)
        host, password, _port = parts.hostname, parts.password, parts.port  # a port that is none raises
    except ValueError:
        raise ValueError(f"expected {schemes[0]}://host:port/name") from None
    if password is not None:
        raise ValueError(_NO_PASSWORD.format(name=name, environment=f"HILUM_{name.upper()}_PASSWORD"))
    if parts.scheme not in schemes or not host:
        raise ValueError(f"expected {schemes[0]}://host:port/name")
    return parts


def _secret(file: Path | None, environment: Mapping[str, str], name: str) -> SecretStr | None:
    if file is None:
        text = environment.get(name)
    else:
        try:
            text = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretMissing(f"{file} can't be read: {type(error).__name__}") from None
    return SecretStr(text) if text else None
