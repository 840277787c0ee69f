"""The route role: applies the rules to complete studies."""

from collections.abc import Sequence
from typing import assert_never

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy import Connection

from hilum.adapters.sql.tables import routes
from hilum.adapters.sql.upsert import insert_new
from hilum.contracts.messages import InferenceRequested, StudyEnded, StudyReady
from hilum.contracts.topics import INFERENCE, STUDY_ENDED, Topic
from hilum.contracts.trace import carried
from hilum.domain.errors import Reject
from hilum.domain.results import AiState, Ended
from hilum.domain.routing import NotApplicable, Routed, Rule, route
from hilum.domain.study import StudyRevision
from hilum.ports.clock import Clock
from hilum.ports.events import Outgoing, Publisher, Received
from hilum.runtime.logs import Log

_LOG = Log("hilum.listener.route")
GROUP = "listener.route"
_OVERTAKEN = "a newer revision of the study was routed before this one came"


class Router:
    """Handles `study.ready`: one row and one message for each revision, in the consumer's transaction."""

    def __init__(self, rules: Sequence[Rule], publisher: Publisher, clock: Clock) -> None:
        self._rules = tuple(rules)
        self._publisher = publisher
        self._clock = clock

    def handle(self, connection: Connection, received: Received) -> None:
        """Routes the revision; one that was routed is dropped, one that a newer revision has overtaken ends.

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
            if not self._is_routed(connection, study):
                self._end(connection, received, study, _OVERTAKEN)
            return
        decision = route(study, self._rules, now=self._clock.now())
        match decision:
            case Routed():
                self._request(connection, received, decision)
            case NotApplicable():
                self._end(connection, received, study, decision.reason)
            case _:
                assert_never(decision)

    def _is_routed(self, connection: Connection, study: StudyRevision) -> bool:
        mine = sa.and_(routes.c.study_instance_uid == study.study_instance_uid, routes.c.revision == study.revision)
        return connection.execute(sa.select(routes.c.revision).where(mine)).first() is not None

    def _request(self, connection: Connection, received: Received, decision: Routed) -> None:
        request, lane = decision.request, decision.request.lane.value
        self._row(connection, request.study_instance_uid, request.revision, lane, request.rule, decision.reason)
        payload = InferenceRequested.from_domain(request).model_dump_json()
        self._publish(connection, INFERENCE[request.lane], received, payload)
        _LOG.info("routed", study=received.key, revision=request.revision, lane=lane, rule=request.rule)

    def _end(self, connection: Connection, received: Received, study: StudyRevision, reason: str) -> None:
        self._row(connection, study.study_instance_uid, study.revision, None, "", reason)
        ended = Ended(study.study_instance_uid, study.revision, AiState.NOT_APPLICABLE, reason, self._clock.now())
        self._publish(connection, STUDY_ENDED, received, StudyEnded.from_domain(ended).model_dump_json())
        _LOG.info("not applicable", study=received.key, revision=study.revision)

    def _publish(self, connection: Connection, topic: Topic, received: Received, payload: str) -> None:
        headers = carried(received.headers)
        self._publisher.publish(connection, [Outgoing(topic.name, received.key, payload, headers)])

    def _row(
        self, connection: Connection, study_uid: str, revision: int, lane: str | None, rule: str, reason: str
    ) -> None:
        values = {"lane": lane, "rule": rule, "reason": reason, "decided_at": self._clock.now()}
        insert_new(connection, routes, {"study_instance_uid": study_uid, "revision": revision, **values})
