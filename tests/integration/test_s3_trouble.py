"""The S3 side of the instance store when the server is away, lies, or was left half an upload; and its cache."""

import hashlib
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hilum.adapters.s3.store import S3Instances
from hilum.domain.errors import Busy, Retry
from hilum.testing.s3 import S3Server, s3_server

MB = 1_000_000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(tmp_path / "server") as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


def opened(server: S3Server, folder: Path, *, cache_bytes: int = 100 * MB) -> S3Instances:
    return S3Instances(server.cluster(), cache=folder / "cache", cache_bytes=cache_bytes)


def put(store: S3Instances, folder: Path, content: bytes, uid: str = "1.2.3") -> str:
    file = folder / "received"
    file.write_bytes(content)
    return store.publish(file, sop_instance_uid=uid, sha256=hashlib.sha256(content).hexdigest())


def stored_files(server: S3Server) -> list[Path]:
    return [path for path in (server.files / "instances").rglob("*.dcm") if path.is_file()]


def test_while_the_server_is_dead_everything_is_busy_and_then_goes_on(server: S3Server, tmp_path: Path) -> None:
    store = opened(server, tmp_path)
    uri = put(store, tmp_path, b"before")
    server.kill()
    with pytest.raises(Busy):
        put(store, tmp_path, b"meanwhile")
    for call in (store.path, store.exists, store.delete):
        with pytest.raises(Busy):
            call(uri)
    server.start()
    assert store.path(put(store, tmp_path, b"meanwhile")).read_bytes() == b"meanwhile"
    assert store.path(uri).read_bytes() == b"before"


def test_a_server_that_is_killed_in_an_upload_never_shows_half_an_object(server: S3Server, tmp_path: Path) -> None:
    store = opened(server, tmp_path)
    content = os.urandom(150 * MB)
    seen: list[str] = []

    def upload() -> None:
        try:
            seen.append(put(store, tmp_path, content))
        except Busy:
            seen.append("busy")

    thread = threading.Thread(target=upload)
    thread.start()
    while not any(path.is_file() for path in server.folder.rglob("*") if path.stat().st_size > 5 * MB):
        assert thread.is_alive(), "the upload was over before the server could be killed"
    server.kill()
    thread.join()
    server.start()
    whole = [path for path in stored_files(server) if path.stat().st_size == len(content)]
    assert stored_files(server) == whole
    uri = put(store, tmp_path, content)
    assert opened(server, tmp_path / "other").path(uri).read_bytes() == content


def test_uploads_that_a_killed_listener_left_are_ended_after_a_while(server: S3Server, tmp_path: Path) -> None:
    store = opened(server, tmp_path)
    client = store._client
    client.create_multipart_upload(Bucket=server.bucket, Key="instances/ab/left.dcm")
    assert store.clear_unfinished(before=datetime.now(UTC) - timedelta(days=1)) == 0
    assert store.clear_unfinished(before=datetime.now(UTC) + timedelta(minutes=1)) == 1
    assert "Uploads" not in client.list_multipart_uploads(Bucket=server.bucket)


def test_bytes_that_were_damaged_in_the_store_are_not_read(server: S3Server, tmp_path: Path) -> None:
    store = opened(server, tmp_path)
    uri = put(store, tmp_path, b"as received")
    (file,) = stored_files(server)
    with file.open("r+b") as damaged:
        damaged.write(b"X")
    with pytest.raises(Retry, match="not what was stored"):
        store.path(uri)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_bucket_that_does_not_exist_or_keys_that_are_wrong_are_waited_for_and_named(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = server.cluster().model_copy(update={"instances": "s3://another-bucket/x"})
    with pytest.raises(Busy, match="NoSuchBucket"):
        put(S3Instances(cluster, cache=tmp_path, cache_bytes=MB), tmp_path, b"x")
    monkeypatch.setenv("HILUM_S3_SECRET_KEY", "wrong")
    with pytest.raises(Busy, match=r"403|SignatureDoesNotMatch"):
        put(opened(server, tmp_path), tmp_path, b"x")


def test_local_copies_stay_within_their_limit_and_the_longest_unused_go_first(server: S3Server, tmp_path: Path) -> None:
    store = opened(server, tmp_path, cache_bytes=3 * MB)
    uris = [put(store, tmp_path, os.urandom(MB), uid=f"1.2.{number}") for number in range(5)]
    copies = [store.path(uri) for uri in uris[:3]]
    for age_s, copy in zip((3000, 1000, 2000), copies, strict=True):
        os.utime(copy, (copy.stat().st_mtime - age_s,) * 2)
    fourth = store.path(uris[3])
    assert [copy.exists() for copy in copies] == [False, True, True]
    assert fourth.exists()
    store.path(uris[1])  # used again
    store.path(uris[4])
    assert [copy.exists() for copy in copies] == [False, True, False]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 3 * MB


def test_a_copy_is_read_without_the_server(server: S3Server, tmp_path: Path) -> None:
    store = opened(server, tmp_path)
    uri = put(store, tmp_path, b"content")
    store.path(uri)
    server.kill()
    assert store.path(uri).read_bytes() == b"content"
