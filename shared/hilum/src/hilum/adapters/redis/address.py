"""Where Redis is, with its password."""

from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import SecretStr

from hilum.runtime.cluster import Cluster


def redis_url(cluster: Cluster) -> SecretStr:
    """The configured URL with the password in it: never to be logged.

    Raises:
        SecretMissing: the file with the password can't be read.
    """
    password = cluster.redis_password()
    if password is None:
        return SecretStr(cluster.redis)
    parts = urlsplit(cluster.redis)
    user = quote(parts.username or "", safe="")
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{user}:{quote(password.get_secret_value(), safe='')}@{host}"
    return SecretStr(urlunsplit((parts.scheme, netloc, parts.path, parts.query, "")))
