"""The behaviour of the instance store port: the spool of one machine, a shared folder, and a real S3 server."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hilum.adapters.folder import SHARED, FolderInstances
from hilum.adapters.instances import open_instances
from hilum.domain.errors import Busy, Reject, Retry
from hilum.ports.instances import InstanceStore
from hilum.runtime.cluster import Cluster
from hilum.testing.s3 import S3Server, s3_server

UID = "1.2.840.4711"
LARGE = 40 << 20
"""More than two parts of an upload."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


Opened = Callable[[], InstanceStore]


@pytest.fixture(params=["spool", "shared folder", "s3"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Opens the store anew, as another process would, with a data folder of its own."""
    numbers = iter(range(100))
    cluster: Cluster | None = None
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        cluster = server.cluster(prefix=f"of/{tmp_path.name}")
    elif request.param == "shared folder":
        address = {"database": "postgresql://hilum@127.0.0.1/x", "kafka": ["127.0.0.1:1"], "redis": "redis://127.0.0.1"}
        cluster = Cluster.model_validate({**address, "instances": str(tmp_path / "mount")})
    if cluster is None:
        return lambda: open_instances(tmp_path / "data", None)
    return lambda: open_instances(tmp_path / f"data-{next(numbers)}", cluster)


@pytest.fixture
def store(opened: Opened) -> InstanceStore:
    return opened()


def put(store: InstanceStore, folder: Path, content: bytes, *, uid: str = UID) -> str:
    return store.publish(a_file(folder, content), sop_instance_uid=uid, sha256=sha256(content))


def a_file(folder: Path, content: bytes) -> Path:
    """Outside of every store, as if another machine's spool."""
    path = folder / f"{sha256(content)[:12]}.received"
    path.write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 5_000_000, LARGE])
def test_what_is_published_is_what_others_read(opened: Opened, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    uri = put(opened(), tmp_path, content)
    assert opened().path(uri).read_bytes() == content
    assert opened().exists(uri, size_bytes=size)
    assert not opened().exists(uri, size_bytes=size + 1)


def test_the_same_instance_again_has_the_same_uri_and_other_bytes_have_another(
    store: InstanceStore, tmp_path: Path
) -> None:
    first = put(store, tmp_path, b"one")
    assert put(store, tmp_path, b"one") == first == store.uri_of(sop_instance_uid=UID, sha256=sha256(b"one"))
    assert put(store, tmp_path, b"two") != first
    assert put(store, tmp_path, b"one", uid="1.2.3") != first
    assert store.path(first).read_bytes() == b"one"


def test_a_uri_is_made_of_digests(store: InstanceStore, tmp_path: Path) -> None:
    uri = put(store, tmp_path, b"one", uid="1.2.840.4711^Doe/../x")
    assert "4711" not in uri
    assert "Doe" not in uri
    assert ".." not in uri


def test_bytes_that_are_not_those_of_the_digest_are_refused_and_nothing_is_stored(
    store: InstanceStore, tmp_path: Path
) -> None:
    for content in (b"damaged", os.urandom(LARGE)):
        file = a_file(tmp_path, content)
        other = sha256(b"what was received")
        with pytest.raises(Reject, match="not those that were received"):
            store.publish(file, sop_instance_uid=UID, sha256=other)
        uri = put(store, tmp_path, b"for its scheme")
        assert not store.exists(uri.replace(sha256(b"for its scheme"), other))


def test_what_is_deleted_is_gone_for_everyone_and_deleting_twice_is_fine(opened: Opened, tmp_path: Path) -> None:
    one, other = opened(), opened()
    uri = put(one, tmp_path, b"one")
    one.delete(uri)
    one.delete(uri)
    assert not other.exists(uri)
    with pytest.raises(Retry):
        other.path(uri)


@pytest.mark.parametrize("uri", ["x:ab/1-2.dcm", "{}../../etc/passwd", "{}ab/../../x", "", "/etc/passwd", "{}"])
def test_a_uri_that_is_not_the_stores_own_is_refused(store: InstanceStore, tmp_path: Path, uri: str) -> None:
    scheme = put(store, tmp_path, b"one").partition(":")[0] + ":"
    for call in (store.path, store.exists, store.delete):
        with pytest.raises(Reject):
            call(uri.format(scheme))


def test_many_publish_the_same_instance_at_once_and_all_get_it(opened: Opened, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    file = a_file(tmp_path, content)
    stores = [opened() for _ in range(6)]
    uris: list[str] = []

    def publish(store: InstanceStore) -> None:
        uris.append(store.publish(file, sop_instance_uid=UID, sha256=sha256(content)))

    threads = [threading.Thread(target=publish, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(uris) == 6
    assert len(set(uris)) == 1
    assert opened().path(uris[0]).read_bytes() == content


def test_a_shared_folder_that_is_full_or_away_is_busy(tmp_path: Path) -> None:
    (tmp_path / "mount").write_text("a file where the mount should be")
    store = FolderInstances(tmp_path / "mount", scheme=SHARED)
    with pytest.raises(Busy):
        put(store, tmp_path, b"one")


def test_a_file_of_the_spool_itself_stays_where_it_is(tmp_path: Path) -> None:
    spool = FolderInstances(tmp_path / "spool")
    place = tmp_path / "spool" / "ab" / f"{'a' * 40}-{'b' * 24}.dcm"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"received")
    uri = spool.publish(place, sop_instance_uid=UID, sha256="never read")
    assert spool.path(uri) == place
