"""A transaction bundle to a FHIR server's base URL (FHIR R4 3.1.0.11)."""

import json
from datetime import timedelta

import httpx

from hilum.domain.results import Format
from hilum.runtime.config import FhirDestination
from hilum_results.encode import MEDIA_TYPES
from hilum_results.handlers.verdict import Verdict, of_http_status, parked, retry

_HEADERS = {"Content-Type": MEDIA_TYPES[Format.FHIR], "Accept": MEDIA_TYPES[Format.FHIR], "Prefer": "return=minimal"}


class FhirSender:
    """POST of the stored bytes. Certificates are checked; redirects are not followed, results go where configured."""

    def __init__(self, destination: FhirDestination) -> None:
        self._url = destination.url
        self._client = httpx.Client(timeout=destination.timeout_s, headers=_HEADERS, trust_env=False)

    def send(self, content: bytes, identity: str) -> Verdict:
        try:
            answer = self._client.post(self._url, content=content)
        except httpx.TransportError as error:
            return retry(f"no answer ({type(error).__name__})")
        except (httpx.InvalidURL, httpx.DecodingError, ValueError) as error:
            return parked(f"the request could not be made ({type(error).__name__})")
        return of_http_status(answer.status_code, _words(answer), retry_after=_retry_after(answer))

    def rest(self) -> None:
        """Idle connections stay pooled: httpx opens a new one when the server has closed them."""


def _retry_after(answer: httpx.Response) -> timedelta:
    text = answer.headers.get("Retry-After", "")
    return (
        timedelta(seconds=min(int(text), 86_400))
        if text.isascii() and text.isdigit() and len(text) < 9
        else timedelta(0)
    )


def _words(answer: httpx.Response) -> str:
    """What the OperationOutcome says, else the start of the body; nothing for a success."""
    if answer.is_success:
        return ""
    try:
        issues = json.loads(answer.content)["issue"]
        said = [str(i.get("diagnostics") or i.get("details", {}).get("text") or i.get("code", "")) for i in issues]
        return "; ".join(filter(None, said))
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.text[:200]
