"""Roles are threads of one process, and none goes on without the others."""

import threading
import warnings
from pathlib import Path

from hilum_listener.__main__ import CannotStart, main, run_roles


def waits(stop: threading.Event) -> None:
    stop.wait(30)


def test_a_role_that_crashes_ends_the_others_and_the_process_with_an_error() -> None:
    def crashes(_stop: threading.Event) -> None:
        raise KeyError("a bug")

    stop = threading.Event()
    assert run_roles({"route": crashes, "assemble": waits}, stop) == 1
    assert stop.is_set()


def test_a_role_that_cannot_start_ends_the_process_with_another_error() -> None:
    def cannot(_stop: threading.Event) -> None:
        raise CannotStart("the address is taken")

    assert run_roles({"scp": cannot, "assemble": waits}, threading.Event()) == 2


def test_stopped_roles_end_the_process_without_an_error() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    assert run_roles({"assemble": waits, "route": waits}, stop) == 0


def test_what_a_library_warns_of_never_reaches_the_log_for_it_may_name_a_patient(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert main(["scp", "--data", str(tmp_path), "--config", str(tmp_path / "missing.toml")]) == 2
        warnings.warn("Invalid value for VR PN: 'Doe^Jane'", UserWarning, stacklevel=1)
    assert seen == []
