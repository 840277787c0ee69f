"""The S3 side of the instance store, by boto3."""

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
from boto3.exceptions import S3UploadFailedError  # type: ignore[import-untyped]
from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from urllib3.exceptions import HTTPError

from hilum.adapters.folder import check_digest, key_in, key_of
from hilum.adapters.s3.cache import Cache
from hilum.domain.errors import Busy, HilumError, Reject, Retry
from hilum.runtime.cluster import Cluster

S3 = "s3:"
_PART_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_TRANSFER = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
_CONNECTION = Config(
    connect_timeout=3,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=16,
    tcp_keepalive=True,
    # what is sent carries its digest, what is read is compared with the one in its key; older servers know no other
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


class S3Instances:
    """`s3:ab/<digest of the SOP Instance UID>-<SHA-256 of the bytes>.dcm` under a bucket's prefix.

    Args:
        cache: a folder for local copies. `cache_bytes` bounds their total size.
    """

    def __init__(self, cluster: Cluster, *, cache: Path, cache_bytes: int) -> None:
        """Connects to nothing yet.

        Raises:
            SecretMissing: a key can't be read.
        """
        place = urlsplit(cluster.instances)
        self._bucket, prefix = place.netloc, place.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._cache = Cache(cache, limit_bytes=cache_bytes)
        keys = cluster.s3_keys()
        self._client: Any = boto3.session.Session(
            aws_access_key_id=keys[0].get_secret_value() if keys else None,
            aws_secret_access_key=keys[1].get_secret_value() if keys else None,
            region_name=cluster.s3_region,
        ).client(
            "s3",
            endpoint_url=cluster.s3_endpoint,
            config=_CONNECTION.merge(Config(s3={"addressing_style": "path" if cluster.s3_endpoint else "auto"})),
        )

    def uri_of(self, *, sop_instance_uid: str, sha256: str) -> str:
        return S3 + key_of(sop_instance_uid, sha256)

    def publish(self, file: Path, *, sop_instance_uid: str, sha256: str) -> str:
        key = key_of(sop_instance_uid, sha256)
        size = file.stat().st_size
        if self._size(key) == size:
            return S3 + key
        if size >= _PART_BYTES:
            check_digest(file, sha256)  # S3 has no SHA-256 of an object in parts, only of each part
            with _trouble():
                self._client.upload_file(
                    str(file),
                    self._bucket,
                    self._prefix + key,
                    ExtraArgs={"ChecksumAlgorithm": "SHA256"},
                    Config=_TRANSFER,
                )
        else:
            with file.open("rb") as content, _trouble():
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    Body=content,
                    ContentLength=size,
                    ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),  # the server compares
                )
        if self._size(key) != size:
            raise Busy("the instance store doesn't have what it said it stored")
        return S3 + key

    def path(self, uri: str) -> Path:
        key = key_in(uri, S3)
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        size = self._size(key)
        if size is None:
            raise Retry("the instance is not in the store")
        try:
            return self._cache.put(key, size, partial(self._fetch, key, size))
        except OSError as error:
            raise Busy(f"the cache of instances can't be written: {type(error).__name__}") from error

    def exists(self, uri: str, *, size_bytes: int | None = None) -> bool:
        size = self._size(key_in(uri, S3))
        return size is not None and size_bytes in (None, size)

    def delete(self, uri: str) -> None:
        key = key_in(uri, S3)
        with _trouble():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)
        self._cache.forget(key)

    def clear_unfinished(self, *, before: datetime) -> int:
        count = 0  # of uploads in parts
        with _trouble():
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < before:
                        name = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                        self._client.abort_multipart_upload(Bucket=self._bucket, **name)
                        count += 1
        return count

    def _size(self, key: str) -> int | None:
        """In bytes; None when there is no such object."""
        try:
            with _trouble():
                return int(self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)["ContentLength"])
        except _NotThere:
            return None

    def _fetch(self, key: str, size: int, file: BinaryIO) -> None:
        """Writes the whole object and compares its digest; goes on where a broken connection stopped."""
        digest, done = hashlib.sha256(), 0
        while done < size:
            before = done
            try:
                for piece in self._pieces(key, start=done):
                    file.write(piece)
                    digest.update(piece)
                    done += len(piece)
            except _NotThere as error:
                raise Retry("the instance is not in the store") from error
            except Busy:
                if done == before:
                    raise
            if done == before:
                raise Retry("the store sends less than it has")
        if digest.hexdigest() != key.partition("-")[2].removesuffix(".dcm"):
            raise Retry("what the store sent is not what was stored")

    def _pieces(self, key: str, *, start: int) -> Iterator[bytes]:
        with _trouble():
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=f"bytes={start}-")
            with answer["Body"] as body:
                yield from iter(partial(body.read, _PIECE_BYTES), b"")


class _NotThere(HilumError):
    """There is no such object."""


@contextmanager
def _trouble() -> Iterator[None]:
    """Whatever the server or the way to it says is waited for: it is the site's to set right, and nothing is lost."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in _MISSING:
            raise _NotThere("no such object") from error
        if code in ("BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest"):
            raise Reject("the file's bytes are not those that were received") from error
        raise Busy(f"the instance store answered {code[:64]}") from error
    except (BotoCoreError, S3UploadFailedError, HTTPError, ConnectionError, TimeoutError) as error:
        raise Busy(f"the instance store is away: {type(error).__name__}") from error
