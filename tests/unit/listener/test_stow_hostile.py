"""STOW-RS refuses what does not pass the pre-check, and takes its neighbours."""

from hilum.testing.hostile_files import DEFLATED, bomb, data_set, file_of, nested
from hilum_listener.handlers.stow import Failure, examine

MEDIA_TYPE = 'multipart/related; type="application/dicom"; boundary=b'


def test_deep_sequences_and_bombs_are_refused_and_the_next_part_is_taken() -> None:
    parts = [
        file_of(data_set("1", before=nested(200, defined=False))),
        file_of(data_set("2", before=nested(260, defined=True))),
        file_of(bomb("3", zeros_mb=80), syntax=DEFLATED),
        file_of(data_set("4")),
    ]
    body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
    outcomes = examine(MEDIA_TYPE, [body])
    assert [outcome.failure for outcome in outcomes] == [Failure.CANNOT_UNDERSTAND] * 3 + [None]
    assert outcomes[-1].sop_instance_uid == "1.2.3.4"
