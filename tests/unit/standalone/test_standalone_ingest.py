"""The ingest measurements: what they send, how they judge."""

import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydicom import dcmread

from hilum_standalone.ingest import accepting, bench, material
from hilum_standalone.ingest.receivers import Receiver, hilum, orthanc, storescp


def test_the_data_sets_are_whole_files_of_one_series_with_distinct_instances(tmp_path: Path) -> None:
    folders = material.write(material.TINY, tmp_path, count=6, parts=2)
    found = [dcmread(path) for folder in folders for path in sorted(folder.iterdir())]
    assert len({one.SOPInstanceUID for one in found}) == 6
    assert len({one.SeriesInstanceUID for one in found}) == 1
    assert all(one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID for one in found)
    assert all(one.pixel_array.shape == (70, 70) for one in found)


@pytest.mark.parametrize(
    ("target", "times", "said"),
    [
        (1.15, ([1.1, 1.0, 1.2], [1.0, 1.0, 1.0]), "1.10 x, target 1.15 | met"),
        (1.15, ([1.2, 1.2, 1.2], [1.0, 1.0, 1.0]), "1.20 x, target 1.15 | missed"),
        (1 / 4, ([1.0], [5.0]), "1 / 5.0, target 1 / 4 | met"),
        (1 / 4, ([1.0], [3.0]), "1 / 3.0, target 1 / 4 | missed"),
    ],
)
def test_a_row_shows_medians_ranges_and_whether_the_target_is_met(
    target: float, times: tuple[list[float], list[float]], said: str
) -> None:
    row = bench.Row("CT", (hilum(), orthanc(prompt=True)), lambda _receiver, _port: 0.0, target)
    shown = bench.line(row, times)
    assert said in shown
    assert f"({min(times[0]):.3g} to {max(times[0]):.3g})" in shown


def test_a_row_without_another_receiver_is_judged_by_itself_and_one_without_a_target_is_not_judged() -> None:
    def row(target: float | None, *receivers: Receiver) -> bench.Row:
        return bench.Row("x", receivers, lambda _receiver, _port: 0.0, target, "ms")

    assert bench.line(row(15.0, hilum()), [[14.0, 15.0]]).endswith("| target 15.0 | met |")
    assert bench.line(row(15.0, hilum()), [[16.0]]).endswith("| target 15.0 | missed |")
    assert bench.line(row(None, hilum()), [[16.0]]).endswith("| target none | - |")
    assert bench.line(row(None, hilum(), storescp()), [[2.0], [2.0]]).endswith("| 1.00 x | - |")


def test_the_order_is_reversed_in_each_second_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def note(receiver: Receiver, port: int) -> float:
        seen.append(receiver.name)
        return 1.0

    class Nothing:
        def __enter__(self) -> int:
            return 0

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(Receiver, "running", lambda _self, _folder: Nothing())
    a, b = hilum(), storescp(tuned=True)
    assert bench.measure(bench.Row("x", (a, b), note, 1.0), tmp_path, 3) == [[1.0] * 3, [1.0] * 3]
    assert seen == [a.name, b.name, b.name, a.name, a.name, b.name]


def test_without_the_tools_it_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(bench.main, ["--tools", str(tmp_path / "none"), "--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert "missing" in result.output


def test_the_accept_time_is_that_of_the_whole_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection, connection.makefile("rb") as asked:
                    head = asked.read(6)
                    asked.read(int.from_bytes(head[2:], "big"))
                    connection.sendall(b"\2\0\0\0\0\4abcd")
                    asked.read(10)
                    connection.sendall(b"\6\0\0\0\0\4\0\0\0\0")

        thread = threading.Thread(target=serve)
        thread.start()
        assert accepting.accept_ms(server.getsockname()[1], 3) > 0
        thread.join(10)
        assert not thread.is_alive()
