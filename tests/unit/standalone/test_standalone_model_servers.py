"""`hilum doctor` on model servers: each is asked who its model is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hilum.runtime.config import Model
from hilum.testing.external import free_port
from hilum_medmo import ModelIdentity
from hilum_medmo.serving.contract import Asked, Said, Status, model_of
from hilum_medmo.testing.waiting import WAITING_IDENTITY
from hilum_standalone.diagnosis.check import Grade
from hilum_standalone.diagnosis.model_servers import model_servers
from hilum_worker.testing import Line, ScriptedServer


def with_model(identity: ModelIdentity) -> ScriptedServer:
    def describes(_asked: Asked) -> Iterator[Line]:
        yield Said(Status.DESCRIBED, model=model_of(identity), description=identity)

    return ScriptedServer(describes)


def test_a_server_with_the_expected_weights_is_ok_and_others_are_noted(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with with_model(WAITING_IDENTITY) as right, with_model(replace(WAITING_IDENTITY, digest="f" * 64)) as wrong:
        servers = (right.address, wrong.address, nobody)
        checks = list(model_servers(Model(servers=servers, digest=WAITING_IDENTITY.digest), tmp_path))
    assert [check.grade for check in checks] == [Grade.OK, Grade.NOTE, Grade.NOTE]
    assert checks[0].found == f"MedMO-Waiting 1; {WAITING_IDENTITY.digest}"
    assert "has other weights (ffffffffffff…)" in checks[1].found
    assert checks[2].found == "can't be reached"
    assert all(check.remedy for check in checks[1:])


def test_when_none_can_be_asked_it_is_red(tmp_path: Path) -> None:
    model = Model(servers=(f"127.0.0.1:{free_port()}",), digest=WAITING_IDENTITY.digest)
    assert [check.grade for check in model_servers(model, tmp_path)] == [Grade.NOTE, Grade.RED]


def test_without_a_digest_or_a_checkpoint_nobody_knows_what_to_expect(tmp_path: Path) -> None:
    [check] = model_servers(Model(servers=("127.0.0.1:1",)), tmp_path)
    assert check.grade is Grade.RED
    assert "weights are missing" in check.found
