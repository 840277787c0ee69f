"""The trace context that travels in message headers (https://www.w3.org/TR/trace-context/).

It begins where a revision is made and goes with every message that follows from it, so that the logs of one revision
can be found in every service. No span is made here.
"""

import re
from collections.abc import Mapping

from hilum.domain.identity import digest_of

TRACEPARENT = "traceparent"
_FORM = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def begin(study_uid: str, revision: int) -> dict[str, str]:
    """The headers of a revision's first message. Derived, so that whoever knows the revision knows its trace."""
    digest = digest_of("trace", study_uid, str(revision))
    return {TRACEPARENT: f"00-{digest[:32]}-{digest[32:48]}-01"}


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a message's headers goes on to the messages that follow from it."""
    value = headers.get(TRACEPARENT, "")
    return {TRACEPARENT: value} if _FORM.fullmatch(value) else {}


def trace_id(headers: Mapping[str, str]) -> str:
    """The 32 hex digits that logs name, or empty."""
    return carried(headers)[TRACEPARENT].split("-")[1] if carried(headers) else ""
