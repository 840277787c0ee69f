"""`studies`, `show`, `export`: what they print, and what they say when they can't."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result

from hilum.adapters.sql.database import database_path, open_database, transaction
from hilum.adapters.sql.schema import migrate
from hilum.testing.many_studies import fill_many

Hilum = Callable[..., Result]


def test_studies_lists_the_reading_order_with_the_reason_for_each_place(hilum: Hilum, data: Path) -> None:
    done = hilum("studies", "--data", data)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert "positive" in lines[1]
    assert "lifted by AI: Pneumothorax" in lines[1]
    assert "not_applicable" in lines[2]
    assert "modality CT is not CR/DX" in lines[2]


def test_studies_as_json_has_state_and_place_of_each(hilum: Hilum, data: Path, uids: tuple[str, str]) -> None:
    listed = json.loads(hilum("studies", "--json", "--data", data).output)
    assert [(s["study_uid"], s["state"], s["position"]) for s in listed] == [
        (uids[0], "positive", 1),
        (uids[1], "not_applicable", 2),
    ]
    assert listed[0]["place_reason"].startswith("lifted by AI")


def test_a_study_that_left_the_reading_list_is_named_by_number_and_listed_with_all(
    hilum: Hilum, data: Path, uids: tuple[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "hilum.toml"
    config.write_text("[worklist]\nkeep_ended_h = 0.05\n")  # 3 minutes: the CT ended 5 minutes ago
    done = hilum("studies", "--data", data, "--config", config)
    assert uids[0] in done.stdout
    assert uids[1] not in done.stdout
    assert done.stderr == "1 more left the reading list: hilum studies --all\n"
    everything = json.loads(hilum("studies", "--all", "--json", "--data", data, "--config", config).stdout)
    assert [(s["study_uid"], s["position"]) for s in everything] == [(uids[0], 1), (uids[1], None)]


def test_a_long_list_comes_in_pages(hilum: Hilum, tmp_path: Path) -> None:
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    with transaction(engine) as connection:
        made = fill_many(connection, 203, newest=datetime.now(UTC), apart=timedelta(seconds=1))
    engine.dispose()
    first = hilum("studies", "--json", "--data", tmp_path)
    second = hilum("studies", "--json", "--page", "2", "--data", tmp_path)
    assert first.stderr == "3 more: --page 2\n"
    assert second.stderr == ""
    listed = [*json.loads(first.stdout), *json.loads(second.stdout)]
    assert [study["position"] for study in listed] == list(range(1, 204))
    assert {study["study_uid"] for study in listed} == set(made)


def test_show_prints_boxes_in_pixels_and_the_peer_s_words(hilum: Hilum, data: Path, uids: tuple[str, str]) -> None:
    done = hilum("show", uids[0], "--data", data)
    assert done.exit_code == 0
    assert "Pneumothorax 0.95, urgent: columns 1 to 30, rows 2 to 40 of 80 x 100" in done.output
    assert "sr to pacs: accepted, 1 attempt; 0x0000 success" in done.output
    assert "A pneumothorax." in done.output


def test_show_as_json_has_the_state_on_top(hilum: Hilum, data: Path, uids: tuple[str, str]) -> None:
    shown = json.loads(hilum("show", uids[0], "--json", "--data", data).output)
    assert shown["state"] == "positive"
    assert shown["findings"][0]["box"] == {"left": 1.0, "top": 2.0, "right": 30.0, "bottom": 40.0}


@pytest.mark.parametrize("command", [("show",), ("export", "--out", "nowhere"), ("ask",)])
def test_an_unknown_study_is_an_error_that_says_where_to_look(
    hilum: Hilum, data: Path, command: tuple[str, ...]
) -> None:
    question = ("Is there a nodule?",) if command == ("ask",) else ()
    done = hilum(command[0], "1.2.3", *question, *command[1:], "--data", data)
    assert done.exit_code == 1
    assert "no study 1.2.3 is known; `hilum studies` lists those that arrived" in done.output
    assert not Path("nowhere").exists()


def test_the_beginning_of_a_uid_brings_the_whole_one_as_a_suggestion(
    hilum: Hilum, data: Path, uids: tuple[str, str]
) -> None:
    done = hilum("show", uids[0][:-4], "--data", data)
    assert done.exit_code == 1
    assert f"did you mean {uids[0]}?" in done.output


def test_export_writes_the_bytes_that_are_delivered(
    hilum: Hilum, data: Path, uids: tuple[str, str], tmp_path: Path
) -> None:
    done = hilum("export", uids[0], "--out", tmp_path / "out", "--data", data)
    assert done.exit_code == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {
        "sr.dcm": b"DICM",
        "bundle.json": b"{}",
        "oru.hl7": b"MSH|",
    }


def test_export_of_a_study_that_the_ai_did_not_read_says_why_and_writes_nothing(
    hilum: Hilum, data: Path, uids: tuple[str, str], tmp_path: Path
) -> None:
    done = hilum("export", uids[1], "--out", tmp_path / "out", "--data", data)
    assert done.exit_code == 1
    assert "has no result: not_applicable, modality CT is not CR/DX" in done.output
    assert not (tmp_path / "out").exists()


def test_export_to_a_place_that_can_t_be_written_is_one_line(
    hilum: Hilum, data: Path, uids: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = hilum("export", uids[0], "--out", tmp_path / "file" / "out", "--data", data)
    assert done.exit_code == 2
    assert "can't write to" in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("studies",),
        ("deliveries",),
        ("deliveries", "--retry", "1"),
        ("show", "1.2"),
        ("export", "1.2", "--out", "x"),
        ("ask", "1", "?"),
    ],
)
def test_a_folder_without_data_is_one_line_that_says_how_to_start(
    hilum: Hilum, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = hilum(*arguments, "--data", tmp_path / "none")
    assert done.exit_code == 2
    assert done.output.strip().splitlines() == [
        f"Error: {tmp_path / 'none'} holds no Hilum data; start Hilum with: hilum up --data {tmp_path / 'none'}"
    ]
    assert not (tmp_path / "none").exists()


def test_a_wrong_config_of_studies_is_named_with_its_line(hilum: Hilum, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "hilum.toml"
    config.write_text("[worklist]\nstat_max_wait = 3\n")
    done = hilum("studies", "--data", data, "--config", config)
    assert done.exit_code == 2
    assert f"{config}:2: worklist.stat_max_wait: unknown key" in done.output


@pytest.mark.parametrize("command", ["up", "send", "studies", "show", "ask", "deliveries", "export", "doctor"])
def test_every_command_has_a_help_text(hilum: Hilum, command: str) -> None:
    done = hilum(command, "--help")
    assert done.exit_code == 0
    assert "--data" in done.output
