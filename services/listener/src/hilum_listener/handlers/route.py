"""The route role: applies the rules to complete studies."""

from collections.abc import Sequence
from typing import assert_never

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy import Connection

from hilum.adapters.sql.tables import routes
from hilum.adapters.sql.upsert import insert_new
from hilum.contracts.messages import InferenceRequested, StudyEnded, StudyReady
from hilum.contracts.topics import INFERENCE, STUDY_ENDED
from hilum.domain.errors import Reject
from hilum.domain.results import AiState, Ended
from hilum.domain.routing import NotApplicable, Routed, Rule, route
from hilum.domain.study import StudyRevision
from hilum.ports.clock import Clock
from hilum.ports.events import Outgoing, Publisher, Received
from hilum.runtime.logs import Log

_LOG = Log("hilum.listener.route")
GROUP = "listener.route"


class Router:
    """Handles `study.ready`: one row and one message for each revision, in the consumer's transaction."""

    def __init__(self, rules: Sequence[Rule], publisher: Publisher, clock: Clock) -> None:
        self._rules = tuple(rules)
        self._publisher = publisher
        self._clock = clock

    def handle(self, connection: Connection, received: Received) -> None:
        """Routes the revision; one that is not newer than the last routed one is dropped.

        Raises:
            Reject: the message is not a `study.ready`.
            Conflict: another process routes the same revision; the message comes again.
        """
        try:
            study = StudyReady.model_validate_json(received.payload).to_domain()
        except ValidationError as error:
            raise Reject(f"not a study.ready message: {error.error_count()} fields are wrong") from error
        newest = connection.execute(
            sa.select(sa.func.max(routes.c.revision)).where(routes.c.study_instance_uid == study.study_instance_uid)
        ).scalar_one()
        if newest is not None and study.revision <= newest:
            return
        decision = route(study, self._rules, now=self._clock.now())
        match decision:
            case Routed():
                self._request(connection, received.key, decision)
            case NotApplicable():
                self._end(connection, received.key, study, decision)
            case _:
                assert_never(decision)

    def _request(self, connection: Connection, key: str, decision: Routed) -> None:
        request, lane = decision.request, decision.request.lane.value
        self._row(connection, request.study_instance_uid, request.revision, lane, request.rule, decision.reason)
        payload = InferenceRequested.from_domain(request).model_dump_json()
        self._publisher.publish(connection, [Outgoing(INFERENCE[request.lane].name, key, payload)])
        _LOG.info("routed", study=key, revision=request.revision, lane=lane, rule=request.rule)

    def _end(self, connection: Connection, key: str, study: StudyRevision, decision: NotApplicable) -> None:
        self._row(connection, study.study_instance_uid, study.revision, None, "", decision.reason)
        ended = Ended(
            study.study_instance_uid, study.revision, AiState.NOT_APPLICABLE, decision.reason, self._clock.now()
        )
        payload = StudyEnded.from_domain(ended).model_dump_json()
        self._publisher.publish(connection, [Outgoing(STUDY_ENDED.name, key, payload)])
        _LOG.info("not applicable", study=key, revision=study.revision)

    def _row(
        self, connection: Connection, study_uid: str, revision: int, lane: str | None, rule: str, reason: str
    ) -> None:
        values = {"lane": lane, "rule": rule, "reason": reason, "decided_at": self._clock.now()}
        insert_new(connection, routes, {"study_instance_uid": study_uid, "revision": revision, **values})
