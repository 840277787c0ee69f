"""A FHIR R4 endpoint that carries out transaction bundles of creates and (conditional) updates."""

import hashlib
import json
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hilum_standalone.receivers.kept import Kept

_JSON = "application/fhir+json"
_LARGEST = 32_000_000


class Refused(Exception):
    """The request can't be carried out: an HTTP status and words for an OperationOutcome."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass(slots=True)
class Store:
    """The resources, in memory and in `index.json`: which id a conditional url stands for, and each id's version."""

    index: Path
    known: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)

    def load(self) -> None:
        if self.index.exists():
            saved = json.loads(self.index.read_text(encoding="utf-8"))
            self.known, self.versions, self.resources = saved["known"], saved["versions"], saved["resources"]

    def save(self) -> None:
        part = self.index.with_suffix(".part")
        part.write_text(
            json.dumps({"known": self.known, "versions": self.versions, "resources": self.resources}), encoding="utf-8"
        )
        part.replace(self.index)


def transact(bundle: Any, store: Store, *, now: datetime) -> dict[str, Any]:
    """Carries out a transaction and gives the transaction-response (FHIR R4 3.1.0.11.2); all entries or none.

    Raises:
        Refused: not a transaction bundle, or an entry that this endpoint can't carry out. Nothing is stored then.
    """
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle" or bundle.get("type") != "transaction":
        raise Refused(400, "only Bundle resources of type transaction are accepted")
    entries = bundle.get("entry") or []
    plans = [_plan(entry, store) for entry in entries]
    places = {entry.get("fullUrl"): place for entry, (place, _, _) in zip(entries, plans, strict=True)}
    answers = []
    for entry, (place, url, exists) in zip(entries, plans, strict=True):
        version = store.versions.get(place, 0) + 1
        if "?" in url:
            store.known[url] = place
        store.versions[place] = version
        stamp = now.isoformat(timespec="milliseconds")
        resource = _relinked(entry["resource"], places)
        resource |= {"id": place.split("/")[1], "meta": {**resource.get("meta", {}), "versionId": str(version)}}
        store.resources[place] = resource
        answers.append(
            {
                "response": {
                    "status": "200 OK" if exists else "201 Created",
                    "location": f"{place}/_history/{version}",
                    "etag": f'W/"{version}"',
                    "lastModified": stamp,
                }
            }
        )
    return {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}


def _plan(entry: Any, store: Store) -> tuple[str, str, bool]:
    """Where an entry goes (`Type/id`), its condition's url, and whether that place exists."""
    request, resource = entry.get("request", {}), entry.get("resource")
    method, url = request.get("method"), unquote(str(request.get("url", "")))
    if not isinstance(resource, dict) or "resourceType" not in resource:
        raise Refused(400, "an entry has no resource")
    kind = resource["resourceType"]
    if url.split("?")[0].split("/")[0] != kind:
        raise Refused(422, f"request.url does not name the resource's type {kind}")
    if method == "POST":
        condition = str(request.get("ifNoneExist", ""))
        key = f"{kind}?{unquote(condition)}" if condition else ""
    elif method == "PUT" and "?" in url:
        key = url
    elif method == "PUT" and "/" in url:
        return url, "", url in store.versions
    else:
        raise Refused(422, f"request.method {method} is not carried out here")
    if key in store.known:
        return store.known[key], key, True
    return f"{kind}/{uuid.uuid4()}", key, False


def _relinked(value: Any, places: dict[Any, str]) -> Any:
    """The resource with references to entries' fullUrls replaced by where those entries went."""
    if isinstance(value, dict):
        return {
            name: places[inner] if name == "reference" and inner in places else _relinked(inner, places)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_relinked(item, places) for item in value]
    return value


def _capabilities(now: datetime) -> dict[str, Any]:
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": now.isoformat(timespec="seconds"),
        "kind": "instance",
        "implementation": {"description": "Hilum demo receiver"},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [{"mode": "server", "interaction": [{"code": "transaction"}]}],
    }


class _Handler(BaseHTTPRequestHandler):
    server: "Receiver"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        if path == "metadata":
            self._answer(200, _capabilities(datetime.now(UTC)))
        elif path in self.server.store.resources:
            self._answer(200, self.server.store.resources[path])
        else:
            self._answer(404, _outcome("not found"))

    def do_POST(self) -> None:
        try:
            self._answer(200, self.server.take(self._body()))
        except Refused as refused:
            self._answer(refused.status, _outcome(refused.words))

    def _body(self) -> bytes:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self.close_connection = True
            raise Refused(411, "Content-Length is missing") from None
        if not 0 <= length <= _LARGEST:
            self.close_connection = True
            raise Refused(413, "the bundle is too large")
        return self.rfile.read(length)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", _JSON)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are kept as receipts; nothing else is logged."""


class Receiver(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, kept: Kept, index: Path, *, host: str, port: int) -> None:
        super().__init__((host, port), _Handler)
        self.kept = kept
        self.store = Store(index)
        self.store.load()
        self._lock = threading.Lock()

    def take(self, content: bytes) -> dict[str, Any]:
        """Carries out and keeps one bundle."""
        try:
            bundle = json.loads(content)
        except ValueError as error:
            raise Refused(400, "the body is not JSON") from error
        with self._lock:
            answer = transact(bundle, self.store, now=datetime.now(UTC))
            self.store.save()
        self.kept.keep(_identity(bundle, content), "json", content)
        return answer


def _identity(bundle: dict[str, Any], content: bytes) -> str:
    identifier = bundle.get("identifier")
    value = identifier.get("value") if isinstance(identifier, dict) else None
    return str(value) if value else hashlib.sha256(content).hexdigest()[:32]


def _outcome(words: str) -> dict[str, Any]:
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": "processing", "diagnostics": words}],
    }


def serve(kept: Kept, index: Path, *, host: str, port: int) -> Receiver:
    """Starts the endpoint on its own threads."""
    server = Receiver(kept, index, host=host, port=port)
    threading.Thread(target=server.serve_forever, name="fhir", daemon=True).start()
    return server
