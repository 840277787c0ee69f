"""An archive reached by DICOMweb: QIDO-RS to ask, WADO-RS to retrieve (PS3.18 10.4, 10.6), as user agent."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import httpx

from hilum.domain.errors import Reject, Retry
from hilum.runtime.config import DicomwebArchive
from hilum_listener.handlers.archive import Arrivals, EarlierStudy, Held, Outcome
from hilum_listener.handlers.part10 import is_uid
from hilum_listener.handlers.stow import Failure, Transaction, boundary_of

_CLASS, _INSTANCE, _STUDY, _SERIES = "00080016", "00080018", "0020000D", "0020000E"
_DATE, _MODALITIES, _MODALITY, _PART = "00080020", "00080061", "00080060", "00180015"
_PATIENT_ID, _ISSUER, _COUNT = "00100020", "00100021", "00201208"
_PAGE, _MOST_ROWS, _MOST_BYTES = 500, 100_000, 64 << 20
_FILES = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Whatever the archive holds: nothing is transcoded (PS3.18 8.7.3.5.2)."""
_LEAST_BYTES_PER_S = 1 << 14
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
Row = Mapping[str, Any]
Parameters = Sequence[tuple[str, str | int | float | bool | None]]


class WebArchive:
    """One client; connections are kept between requests."""

    def __init__(self, archive: DicomwebArchive) -> None:
        self._archive = archive
        self._client = httpx.Client(timeout=archive.timeout_s, trust_env=False, follow_redirects=False)

    def instances(self, study_instance_uid: str) -> Sequence[Held]:
        rows = self._query(f"/studies/{_checked(study_instance_uid)}/instances")
        return [Held(_text(row, _SERIES), _text(row, _INSTANCE), _text(row, _CLASS)) for row in rows]

    def earlier(self, patient_id: str, issuer: str) -> Sequence[EarlierStudy]:
        if not patient_id:
            return ()
        if any(character in patient_id for character in "*?\\"):
            raise Reject("the patient's identifier has characters that a query takes for wildcards")
        fields = (_PATIENT_ID, _ISSUER, _DATE, _MODALITIES, _COUNT)
        found = []
        for row in self._query("/studies", fields, PatientID=patient_id):
            stated = _text(row, _ISSUER)
            if _text(row, _PATIENT_ID) != patient_id or (issuer and stated not in ("", issuer)):
                continue  # archives may match more loosely than they should
            if is_uid(uid := _text(row, _STUDY)):
                found.append(self._study(uid, row))
        return found

    def _study(self, uid: str, row: Row) -> EarlierStudy:
        rows = list(self._query(f"/studies/{uid}/series", (_MODALITY, _PART)))
        modalities = {*_values(row, _MODALITIES), *(value for r in rows for value in _values(r, _MODALITY))}
        parts = {value.strip().upper() for r in rows for value in _values(r, _PART)}
        count = _text(row, _COUNT)
        return EarlierStudy(
            study_instance_uid=uid,
            study_date=_date(_text(row, _DATE)),
            modalities=frozenset(modalities),
            body_parts=frozenset(parts - {""}),
            instances=int(count) if count.isdecimal() else len(self.instances(uid)),
        )

    def fetch(self, study_instance_uid: str, wanted: Sequence[Held], arrivals: Arrivals) -> Outcome:
        """One request for each instance; its body goes from the socket to the file in small pieces."""
        completed = 0
        for held in wanted:
            if arrivals.full:
                break
            completed += self._retrieve(study_instance_uid, held, arrivals)
        return Outcome(completed, len(wanted) - completed)

    def _retrieve(self, study: str, held: Held, arrivals: Arrivals) -> bool:
        uids = [_checked(uid) for uid in (study, held.series_instance_uid, held.sop_instance_uid)]
        path = "/studies/{}/series/{}/instances/{}".format(*uids)
        with self._get(path, (), accept=_FILES, what="WADO-RS") as response:
            if response.status_code in (404, 410):
                return False
            self._check(response, "WADO-RS")
            transaction = Transaction(
                boundary_of(response.headers.get("content-type", "")), arrivals, study_instance_uid=study
            )
            try:
                for piece in self._pieces(response):
                    transaction.feed(piece)
                    if arrivals.full:
                        break
                transaction.finish(Failure.OUT_OF_RESOURCES)
            except Reject as error:
                raise Retry(f"archive {self._archive.name}: its answer to WADO-RS is malformed") from error
            finally:
                transaction.close()
        return any(
            outcome.failure is None and outcome.sop_instance_uid == held.sop_instance_uid
            for outcome in transaction.outcomes
        )

    def _query(self, path: str, fields: Sequence[str] = (), **keys: str) -> Iterator[Row]:
        """Every row, page after page. Ends where a page brings nothing new: an archive may not know `offset`."""
        asked = [*keys.items(), *(("includefield", field) for field in fields)]
        seen: set[str] = set()
        for offset in range(0, _MOST_ROWS, _PAGE):
            rows = self._page(path, [*asked, ("limit", str(_PAGE)), ("offset", str(offset))])
            new = {key: row for row in rows if (key := json.dumps(row, sort_keys=True)) not in seen}
            seen.update(new)
            yield from new.values()
            if len(rows) < _PAGE or not new:
                return
        raise Reject(f"archive {self._archive.name}: it answers with more than {_MOST_ROWS} rows")

    def _page(self, path: str, parameters: Parameters) -> Sequence[Row]:
        body = bytearray()
        with self._get(path, parameters, accept="application/dicom+json", what="QIDO-RS") as response:
            if response.status_code == 204:
                return ()
            self._check(response, "QIDO-RS")
            for piece in self._pieces(response):
                body += piece
                if len(body) > _MOST_BYTES:
                    raise Reject(f"archive {self._archive.name}: its answer to QIDO-RS has no end")
        try:
            rows = json.loads(bytes(body))
        except ValueError as error:
            raise Retry(f"archive {self._archive.name}: its answer to QIDO-RS is no JSON") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Reject(f"archive {self._archive.name}: its answer to QIDO-RS is no list of data sets")
        return rows

    def _pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """The body as it comes. An archive may pause as long as the timeout says, but not crawl."""
        began, received = time.monotonic(), 0
        for piece in response.iter_raw():
            received += len(piece)
            if time.monotonic() - began > self._archive.timeout_s + received / _LEAST_BYTES_PER_S:
                raise Retry(f"archive {self._archive.name}: it sends too slowly")
            yield piece

    @contextmanager
    def _get(self, path: str, parameters: Parameters, *, accept: str, what: str) -> Iterator[httpx.Response]:
        url = self._archive.url.rstrip("/") + path
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        try:
            with self._client.stream("GET", url, params=list(parameters), headers=headers) as response:
                yield response
        except httpx.HTTPError as error:
            raise Retry(f"archive {self._archive.name}: {what} broke off ({type(error).__name__})") from error

    def _check(self, response: httpx.Response, what: str) -> None:
        code = response.status_code
        if code == 200:
            return
        words = f"archive {self._archive.name}: {what} answered {code}"
        raise (Retry if code in _AGAIN else Reject)(words)


def _checked(uid: str) -> str:
    """Raises `Reject`: no text that is no UID becomes part of an address."""
    if not is_uid(uid):
        raise Reject("the archive names a UID that is none")
    return uid


def _values(row: Row, tag: str) -> Sequence[str]:
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [str(value) for value in values if value is not None] if isinstance(values, list) else ()


def _text(row: Row, tag: str) -> str:
    return next(iter(_values(row, tag)), "").strip()


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007  # a DICOM date has no zone
    except ValueError:
        return None
