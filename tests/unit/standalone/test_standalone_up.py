"""`hilum up` before anything starts: what it refuses, in one line and with exit code 2."""

import fcntl
import io
import os
import socket
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest
from click.testing import Result
from rich.console import Console

from hilum.runtime.config import FhirDestination, Listener, Site, Stow, load, parse
from hilum.testing.external import free_port
from hilum_standalone.commands.up import announce
from hilum_standalone.options import Unusable
from hilum_standalone.plan import make_plan, programs
from hilum_standalone.toml_text import toml_text

Hilum = Callable[..., Result]
EXAMPLE = Path(__file__).parents[3] / "docs" / "hilum.example.toml"


def test_a_port_in_use_is_named_with_its_option(hilum: Hilum, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option in ("--dicom-port", "--http-port"):
            other = "--http-port" if option == "--dicom-port" else "--dicom-port"
            done = hilum("up", "--data", tmp_path, option, port, other, "0")
            assert (done.exit_code, done.output) == (2, f"Error: port {port} is in use; choose another with {option}\n")


def test_the_two_ports_must_differ(hilum: Hilum, tmp_path: Path) -> None:
    done = hilum("up", "--data", tmp_path, "--dicom-port", "40001", "--http-port", "40001")
    assert done.exit_code == 2
    assert "are the same port" in done.output


def test_stow_rs_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    configured = Site(listener=Listener(stow=Stow(port=free_port())))
    for site, given, port in (
        (Site(), None, None),
        (configured, None, configured.listener.stow and configured.listener.stow.port),
        (configured, 0, ANY),
        (Site(), 0, ANY),
    ):
        plan = make_plan(tmp_path, site, base=tmp_path, dicom_port=0, http_port=0, demo=False, stow_port=given)
        assert plan.stow_port == port
        commands = {program.name: program.command for program in programs(plan)}
        assert ("stow" in commands) == (port is not None)
        if port is not None:
            assert commands["stow"][-2:] == ("--http-port", str(plan.stow_port))
            assert plan.stow == f"http://127.0.0.1:{plan.stow_port}/studies"


def test_the_port_of_stow_rs_is_looked_at_as_well(hilum: Hilum, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ports = ("--dicom-port", "0", "--http-port", "0", "--stow-port", port)
        done = hilum("up", "--data", tmp_path, *ports)
        assert (done.exit_code, done.output) == (2, f"Error: port {port} is in use; choose another with --stow-port\n")
    done = hilum("up", "--data", tmp_path, "--dicom-port", "40001", "--http-port", "0", "--stow-port", "40001")
    assert "--dicom-port and --stow-port are the same port" in done.output


def test_a_wrong_key_is_named_with_its_line_and_nothing_is_made(hilum: Hilum, tmp_path: Path) -> None:
    config = tmp_path / "hilum.toml"
    config.write_text('ae_title = "A"\n[listener]\nquiet_time = 3\n')
    done = hilum("up", "--data", tmp_path / "data", "--config", config)
    assert (done.exit_code, done.output) == (2, f"Error: {config}:3: listener.quiet_time: unknown key\n")
    assert not (tmp_path / "data").exists()


def test_a_missing_config_is_an_error(hilum: Hilum, tmp_path: Path) -> None:
    done = hilum("up", "--data", tmp_path / "data", "--config", tmp_path / "none.toml")
    assert done.exit_code == 2
    assert "none.toml" in done.output


def test_a_folder_that_can_t_be_written_is_an_error(hilum: Hilum, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = hilum("up", "--data", tmp_path / "file" / "data")
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: can't write to {tmp_path / 'file' / 'data'}")


def test_a_second_up_on_one_folder_is_refused_and_names_the_first(hilum: Hilum, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "up.lock").open("w+") as lock:
        lock.write(str(os.getpid()))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = hilum("up", "--data", tmp_path)
    assert done.exit_code == 2
    assert f"Hilum is already running on {tmp_path} (process {os.getpid()})" in done.output


def test_a_database_of_a_newer_release_is_refused(hilum: Hilum, data: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(data / "hilum.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    done = hilum("up", "--data", data, "--dicom-port", "0", "--http-port", "0")
    assert done.exit_code == 2
    assert "can't be brought up to date" in done.output


def test_exit_when_done_goes_with_the_demo_only(hilum: Hilum, tmp_path: Path) -> None:
    done = hilum("up", "--data", tmp_path, "--exit-when-done")
    assert done.exit_code == 2
    assert "goes with --demo" in done.output


def test_the_demo_keeps_simulations_alone_adds_three_and_says_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    clinical = FhirDestination(name="clinical", kind="fhir", url="http://192.0.2.1/fhir")
    lab = FhirDestination(name="lab", kind="fhir", url="http://192.0.2.2/fhir", simulation=True)
    site = Site(destinations=(clinical, lab))
    plan = make_plan(tmp_path, site, base=tmp_path, dicom_port=0, http_port=0, demo=True)
    assert [(d.name, d.kind, d.simulation) for d in plan.site.destinations] == [
        ("lab", "fhir", True),
        ("demo-pacs", "dicom", True),
        ("demo-fhir", "fhir", True),
        ("demo-ris", "hl7", True),
    ]
    assert load(plan.config) == plan.site
    told = io.StringIO()
    announce(plan, Console(file=told, width=200))
    assert "nothing is sent to clinical while it runs" in told.getvalue()


def test_without_the_demo_every_configured_destination_is_served(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    site = Site(destinations=(FhirDestination(name="clinical", kind="fhir", url="http://192.0.2.1/fhir"),))
    plan = make_plan(tmp_path, site, base=tmp_path, dicom_port=0, http_port=0, demo=False)
    assert plan.site.destinations == site.destinations
    told = io.StringIO()
    announce(plan, Console(file=told, width=200))
    assert "clinical" not in told.getvalue()


def test_the_demo_may_send_where_peers_are_configured(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    site = parse('[[peers]]\nae_title = "XRAY1"\n')
    plan = make_plan(tmp_path, site, base=tmp_path, dicom_port=0, http_port=0, demo=True)
    assert [(p.ae_title, p.host) for p in plan.site.peers] == [("XRAY1", None), ("HILUM_DEMO", "127.0.0.1")]


def test_a_destination_with_a_name_of_the_demo_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    theirs = FhirDestination(name="demo-fhir", kind="fhir", url="http://192.0.2.1", simulation=True)
    site = Site(destinations=(theirs,))
    with pytest.raises(Unusable, match="two destinations are named 'demo-fhir'"):
        make_plan(tmp_path, site, base=tmp_path, dicom_port=0, http_port=0, demo=True)


def test_a_relative_checkpoint_starts_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    site = parse('[model]\ncheckpoint = "nano"\n')
    plan = make_plan(tmp_path, site, base=tmp_path / "etc", dicom_port=0, http_port=0, demo=False)
    assert plan.site.model.checkpoint == tmp_path / "etc" / "nano"


def test_relative_certificates_start_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    site = parse(
        '[listener.tls]\ncertificate = "own.crt"\nkey = "/keys/own.key"\n'
        '[[peers]]\nae_title = "CT1"\ncertificate = "ct1.crt"\n[[peers]]\nae_title = "CT2"\n'
    )
    plan = make_plan(tmp_path, site, base=tmp_path / "etc", dicom_port=0, http_port=0, demo=False)
    assert plan.site.listener.tls is not None
    assert plan.site.listener.tls.certificate == tmp_path / "etc" / "own.crt"
    assert plan.site.listener.tls.key == Path("/keys/own.key")
    assert [peer.certificate for peer in plan.site.peers] == [tmp_path / "etc" / "ct1.crt", None]


def test_a_configuration_survives_being_written_as_toml() -> None:
    for site in (Site(), load(EXAMPLE), Site(institution='Klinik "Süd"\n\x7f 🫁')):
        assert parse(toml_text(site.model_dump(mode="json", exclude_none=True))) == site
