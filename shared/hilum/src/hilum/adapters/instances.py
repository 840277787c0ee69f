"""Which instance store a site has, and one that reads whatever its URIs name."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from hilum.adapters.folder import SCHEME, SHARED, FolderInstances
from hilum.domain.errors import Reject
from hilum.ports.instances import InstanceStore
from hilum.runtime.cluster import Cluster


class Instances:
    """Publishes to one store and reads from each by its scheme: the spool of this machine has what is not published."""

    def __init__(self, stores: Mapping[str, InstanceStore], *, target: str) -> None:
        """Args: stores: by the scheme of their URIs, such as `spool:`. target: the scheme to publish under."""
        self._stores = stores
        self._target = target

    def uri_of(self, *, sop_instance_uid: str, sha256: str) -> str:
        return self._stores[self._target].uri_of(sop_instance_uid=sop_instance_uid, sha256=sha256)

    def publish(self, file: Path, *, sop_instance_uid: str, sha256: str) -> str:
        return self._stores[self._target].publish(file, sop_instance_uid=sop_instance_uid, sha256=sha256)

    def path(self, uri: str) -> Path:
        return self._of(uri).path(uri)

    def exists(self, uri: str, *, size_bytes: int | None = None) -> bool:
        return self._of(uri).exists(uri, size_bytes=size_bytes)

    def delete(self, uri: str) -> None:
        self._of(uri).delete(uri)

    def clear_unfinished(self, *, before: datetime) -> int:
        return sum(store.clear_unfinished(before=before) for store in self._stores.values())

    def _of(self, uri: str) -> InstanceStore:
        scheme = uri[: uri.find(":") + 1]
        if scheme not in self._stores:
            raise Reject("the instance's URI is not one of this store's")
        return self._stores[scheme]


def open_instances(data: Path, cluster: Cluster | None) -> InstanceStore:
    """The spool on one machine; in a cluster the shared folder or the bucket, and this machine's spool.

    Raises:
        SecretMissing: a key of S3 can't be read.
    """
    spool = FolderInstances(data / "spool")
    if cluster is None:
        return spool
    if cluster.instances_kind == "folder":
        shared = FolderInstances(Path(cluster.instances), scheme=SHARED)
        return Instances({SCHEME: spool, SHARED: shared}, target=SHARED)
    from hilum.adapters.s3.store import S3, S3Instances  # boto3 takes half a second, and few need it

    bucket = S3Instances(cluster, cache=data / "cache", cache_bytes=cluster.s3_cache_mb * 1_000_000)
    return Instances({SCHEME: spool, S3: bucket}, target=S3)
