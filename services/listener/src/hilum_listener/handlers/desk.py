"""Takes normalized requests in: the notice is durable and journaled before the answer says so."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from hilum.runtime.logs import Log
from hilum_listener.handlers.attributes import PROCESSING_FAILURE, Answer, Refused, ServiceRequest
from hilum_listener.handlers.journal import JournalWriter, NoticeReceived
from hilum_listener.handlers.notices import Kind, NoticeStore

_LOG = Log("hilum.listener.services")


@dataclass(frozen=True, slots=True)
class Desk:
    """What every service of this kind needs."""

    store: NoticeStore
    journal: JournalWriter
    now: Callable[[], datetime]

    def note(self, request: ServiceRequest, kind: Kind, name: str) -> None:
        """Journals that the notice is there or changed.

        Raises:
            OSError: the entry isn't durable.
        """
        self.journal.append(
            NoticeReceived(
                kind=kind.value,
                name=name,
                calling_ae=request.calling_ae,
                peer=request.peer,
                association=request.association,
                received_at=self.now(),
            )
        )


Service = Callable[[ServiceRequest, Desk], Answer]


def answer(service: Service, request: ServiceRequest, desk: Desk) -> Answer:
    """What the service answers; a failure that makes the requester try again when nothing could be written."""
    try:
        return service(request, desk)
    except Refused as refused:
        _LOG.warning(
            "request refused",
            association=request.association,
            peer=request.peer,
            reason=str(refused),
            status=f"{refused.answer.status:04X}",
        )
        return refused.answer
    except (OSError, MemoryError) as error:
        number = getattr(error, "errno", None)
        reason = errno.errorcode.get(number, "unknown") if number else type(error).__name__
        _LOG.error("not journaled", association=request.association, reason=reason)
        return Answer(PROCESSING_FAILURE, "it can't be written at the moment")
