"""The answers to memory that is out, and to identifiers that try to be something else; and what the index searches."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from hilum.adapters.sql.database import is_postgresql, reading, transaction
from hilum_listener.handlers.receive import Status
from hilum_listener.testing import QUIET, Listener, stored_files

KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{16}-[0-9a-f]{16}\.dcm")


def whole_files(listener: Listener) -> list[Path]:
    return stored_files(listener.places.spool)


@pytest.mark.parametrize("call", ["statvfs", "writev", "fdatasync", "pwrite"])
def test_out_of_memory_at_any_step_is_answered_out_of_resources_and_the_sender_can_try_again(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    listener.image(name="before", over="a-1")

    def fail(*_args: Any, **_options: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        assert listener.image(over="a-1") is Status.OUT_OF_RESOURCES
    assert list(listener.places.incoming.iterdir()) == []
    assert len(whole_files(listener)) == 1
    assert listener.image(over="a-1") is Status.SUCCESS
    listener.step()
    assert len(whole_files(listener)) == 2


HOSTILE = [
    "../../x", "..", "/etc/passwd", "1.2/../../../x", "1.2\\..\\x", "1.2\0.3", "1.2\n3", "", ".", "1.2 ", "~root",
    "1" * 65, "1.2.\u0663", "\udcff", "$(id)", "C:\\x", "spool:ab/x", "Doe^Jane",
]  # fmt: skip


@pytest.mark.parametrize("uid", HOSTILE)
def test_what_is_no_uid_is_refused_and_no_path_comes_of_it(listener: Listener, uid: str) -> None:
    data = listener.places.data
    beside = set(data.parent.iterdir())
    assert listener.receive(b"x" * 40, sop_uid=uid, sop_class="1.2.3") is Status.CANNOT_UNDERSTAND
    assert listener.receive(b"x" * 40, sop_uid="1.2.3", sop_class=uid) is Status.CANNOT_UNDERSTAND
    listener.step()
    assert list(data.rglob("*.dcm")) == []
    assert set(data.parent.iterdir()) == beside


def test_the_path_of_a_file_is_made_of_numbers_only(listener: Listener) -> None:
    listener.image(PatientName="Doe^Jane", PatientID="SECRET-1", AccessionNumber="SECRET-2")
    listener.step(after=QUIET)
    (path,) = whole_files(listener)
    assert KEY.fullmatch(str(path.relative_to(listener.places.spool)))
    named = [str(p) for p in listener.places.data.rglob("*")]
    assert [name for name in named if "SECRET" in name or "Doe" in name] == []
    (message,) = listener.ready()
    assert "SECRET" not in message.model_dump_json()
    assert "Doe" not in message.model_dump_json()


def test_no_statement_of_folding_or_completing_walks_a_whole_table(listener: Listener) -> None:
    """What takes longer the more is indexed would make a million instances slower than none."""
    seen: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
            seen.setdefault(statement, parameters[0] if isinstance(parameters, list) else parameters)

    event.listen(listener.engine, "before_cursor_execute", note)
    listener.image(name="one")
    listener.image(name="two")
    listener.step()
    listener.image(name="one")
    listener.image(name="one", PatientName="Other^Name")
    listener.step()
    listener.step(after=QUIET)
    listener.assembler = listener.new_assembler()
    listener.step()
    event.remove(listener.engine, "before_cursor_execute", note)
    assert len(listener.ready()) == 1
    assert len(seen) > 15
    walking = []
    with transaction(listener.engine) as connection:
        explain, walks = "EXPLAIN QUERY PLAN ", "SCAN"
        if is_postgresql(connection):
            explain, walks = "EXPLAIN ", "Seq Scan"
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))  # then only what no index serves is walked
        for statement, parameters in seen.items():
            lines = [str(row[-1]) for row in connection.exec_driver_sql(explain + statement, parameters)]
            walking += [(line, statement) for line in lines if line.lstrip(" ->").startswith(walks)]
    allowed = ("journal_positions", "removals")  # a row for each journal; a page of what is put down
    assert [found for found in walking if not any(name in found[0] for name in allowed)] == []


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_engine_under_test_is_the_one_that_is_shipped(listener: Listener) -> None:
    with reading(listener.engine) as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar_one() == 2
