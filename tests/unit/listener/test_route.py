"""A complete study gets one route, however often it is told."""

from collections.abc import Callable

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.tables import events, routes
from hilum.contracts.messages import StudyEnded, StudyReady
from hilum.contracts.trace import begin
from hilum.domain.errors import Reject
from hilum.domain.results import AiState
from hilum.ports.events import Received
from hilum.runtime.config import Site
from hilum.testing.dicom_files import chest_image
from hilum_listener.handlers.route import Router
from hilum_listener.testing import QUIET, Listener


@pytest.fixture
def routed(listener: Listener) -> Callable[[], list[sa.Row[tuple[object, ...]]]]:
    """Hands every published study.ready to a router and returns the rows of `routes`."""
    router = Router(Site().domain_rules, SqlPublisher(listener.clock), listener.clock)

    def run() -> list[sa.Row[tuple[object, ...]]]:
        for row in listener.rows(events):
            if row.topic == "study.ready":
                with transaction(listener.engine) as connection:
                    router.handle(connection, Received(row.topic, row.offset, row.key, row.payload, {}))
        return listener.rows(routes)

    return run


def topics(listener: Listener) -> list[str]:
    return [row.topic for row in listener.rows(events)]


def test_a_chest_radiograph_goes_to_its_orders_lane(
    listener: Listener, routed: Callable[[], list[sa.Row[tuple[object, ...]]]]
) -> None:
    listener.image(RequestedProcedurePriority="HIGH")
    listener.step(after=QUIET)
    (row,) = routed()
    assert (row.lane, row.rule, row.reason) == ("urgent", "chest radiograph", "rule 'chest radiograph' takes 1 image")
    assert topics(listener) == ["study.ready", "inference.urgent"]


def test_a_lateral_view_known_by_its_code_is_left_out_and_the_ledger_says_so(
    listener: Listener, routed: Callable[[], list[sa.Row[tuple[object, ...]]]]
) -> None:
    view = Dataset()
    view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = "399173006", "SCT", "left lateral"
    listener.image(name="lateral", SeriesInstanceUID="1.2.3.4", ViewCodeSequence=Sequence([view]))
    listener.image(name="raw", SeriesInstanceUID="1.2.3.5", PresentationIntentType="FOR PROCESSING")
    listener.image(name="frontal", ViewPosition="PA")
    listener.step(after=QUIET)
    (row,) = routed()
    assert row.reason == ("rule 'chest radiograph' takes 1 image; left out: 1 image FOR PROCESSING, 1 lateral view")
    (request,) = (row for row in listener.rows(events) if row.topic.startswith("inference."))
    assert request.payload.count("sop_instance_uid") == 1


def test_a_ct_is_not_applicable_with_the_reason(
    listener: Listener, routed: Callable[[], list[sa.Row[tuple[object, ...]]]]
) -> None:
    listener.receive(chest_image(np.zeros((4, 4), np.uint16), Modality="CT"))
    listener.step(after=QUIET)
    (row,) = routed()
    assert (row.lane, row.reason) == (None, "modality CT is not CR/DX (rule 'chest radiograph')")
    assert topics(listener) == ["study.ready", "study.ended"]


def test_the_same_message_again_and_an_older_revision_are_dropped(
    listener: Listener, routed: Callable[[], list[sa.Row[tuple[object, ...]]]]
) -> None:
    listener.image()
    listener.step(after=QUIET)
    listener.image(name="late")
    listener.step(after=QUIET)
    assert len(routed()) == 2
    assert len(routed()) == 2
    assert topics(listener).count("inference.routine") == 2


def test_a_revision_that_was_overtaken_ends_visibly_and_once(listener: Listener) -> None:
    for name in ("first", "late"):
        listener.image(name=name)
        listener.step(after=QUIET)
    router = Router(Site().domain_rules, SqlPublisher(listener.clock), listener.clock)
    first, second = [row for row in listener.rows(events) if row.topic == "study.ready"]
    for row in (second, first, first, second):
        with transaction(listener.engine) as connection:
            router.handle(connection, Received(row.topic, row.offset, row.key, row.payload, row.headers))
    assert topics(listener)[2:] == ["inference.routine", "study.ended"]
    ended = StudyEnded.model_validate_json(listener.rows(events)[-1].payload)
    assert (ended.revision, ended.state) == (1, AiState.NOT_APPLICABLE)
    assert ended.reason == "a newer revision of the study was routed before this one came"


def test_the_trace_of_a_revision_begins_with_it_and_goes_on(listener: Listener) -> None:
    listener.image()
    listener.step(after=QUIET)
    (ready,) = listener.rows(events)
    study = StudyReady.model_validate_json(ready.payload)
    assert ready.headers == begin(study.study_instance_uid, 1)
    router = Router(Site().domain_rules, SqlPublisher(listener.clock), listener.clock)
    with transaction(listener.engine) as connection:
        router.handle(connection, Received(ready.topic, ready.offset, ready.key, ready.payload, ready.headers))
    assert listener.rows(events)[1].headers == ready.headers


def test_a_message_of_another_shape_is_rejected(listener: Listener) -> None:
    router = Router(Site().domain_rules, SqlPublisher(listener.clock), listener.clock)
    with transaction(listener.engine) as connection, pytest.raises(Reject):
        router.handle(connection, Received("study.ready", 1, "k", '{"patient": "no"}', {}))
