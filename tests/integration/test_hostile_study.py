"""Hostile objects through the real processes: quarantined with a reason, and the next study goes on."""

from pathlib import Path
from sys import executable

import pytest
import sqlalchemy as sa

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import instances, quarantine
from hilum.testing.external import Process
from hilum.testing.hostile_files import DEFLATED, EXPLICIT, bomb, data_set, element, item, nested, picture
from hilum_listener.testing_pdu import (
    COMMAND_LAST,
    DATA,
    DATA_SET,
    DATA_SET_LAST,
    Line,
    associate_rq,
    pdu,
    store_rq,
    value,
)
from hilum_listener.testing_scp import start_scp

CR = "1.2.840.10008.5.1.4.1.1.1"
DEEP = "sequences are nested more than 64 deep"
HOSTILE = {
    "201": (data_set("201", before=nested(200, defined=False)), EXPLICIT, DEEP),
    "202": (data_set("202", before=nested(260, defined=True)), EXPLICIT, DEEP),
    "203": (bomb("203", zeros_mb=80), DEFLATED, "the deflated header is larger than 64 MiB"),
    "204": (
        data_set("204", image=picture(rows=65535, columns=65535)),
        EXPLICIT,
        "the image claims 65535 x 65535 pixels, more than 100000000 in a frame",
    ),
    "205": (
        data_set("205", image=picture(frames="2147483647")),
        EXPLICIT,
        "the image claims 2147483647 frames, and there are 64 bytes of pixels",
    ),
    "206": (
        data_set("206", before=element(0x00081140, "SQ", item(b"") * 400_001)),
        EXPLICIT,
        "the object has more than 400000 elements",
    ),
    "207": (
        data_set("207", before=element(0x00081140, "SQ", item(element(0x00081150, "UI", b"1.2", length=900)))),
        EXPLICIT,
        "a nested element is longer than the item or sequence that holds it",
    ),
}


def send(port: int, name: str, data: bytes, syntax: str) -> int:
    with Line(port) as line:
        line.send(associate_rq([(1, CR, syntax)])).receive()
        line.send(pdu(DATA, value(COMMAND_LAST, store_rq(f"1.2.3.{name}"))))
        for at in range(0, len(data), 16_000):
            last = at + 16_000 >= len(data)
            line.send(pdu(DATA, value(DATA_SET_LAST if last else DATA_SET, data[at : at + 16_000])))
        return line.receive()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    engine.dispose()
    return tmp_path


def test_hostile_objects_are_quarantined_with_their_reasons_and_the_others_are_indexed(data: Path) -> None:
    running = start_scp(data)
    command: list[str | Path] = [executable, "-m", "hilum_listener", "assemble", "--data", data]
    with running.process, Process(command, log=data / "assemble.log") as assembly:
        for name, (content, syntax, _) in HOSTILE.items():
            assert send(running.port, name, content, syntax) == DATA
        assert (
            send(running.port, "299", data_set("299", before=element(0x00081030, "LO", b"<script>")), EXPLICIT) == DATA
        )
        engine = open_database(database_path(data))

        def rows(table: sa.Table) -> dict[str, str]:
            with reading(engine) as connection:
                found = list(connection.execute(sa.select(table)))
            return {row.sop_instance_uid: getattr(row, "reason", "") for row in found}

        assembly.wait_until(lambda: "1.2.3.299" in rows(instances), timeout_s=60)
        assert rows(quarantine) == {f"1.2.3.{name}": reason for name, (_, _, reason) in HOSTILE.items()}
        assert list(rows(instances)) == ["1.2.3.299"]
        assert assembly.popen.poll() is None
        engine.dispose()
    assert "Traceback" not in (data / "assemble.log").read_text()
