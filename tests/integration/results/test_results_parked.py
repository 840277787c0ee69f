"""Parked deliveries through the real processes: `python -m hilum_results` and `hilum deliveries`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hilum.adapters.sql import tables
from hilum.testing.external import free_port
from hilum.testing.receivers import Receiver
from hilum_results.testing import ResultsSite, fhir_to, hl7_to, nodule


def hilum(site: ResultsSite, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with the configuration that the service has."""
    config = site.folder / "hilum.toml"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "hilum_standalone",
        *arguments,
        "--data",
        site.folder,
        "--config",
        config,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def listed(site: ResultsSite) -> list[dict[str, Any]]:
    done = hilum(site, "deliveries", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_refused_delivery_is_listed_put_back_while_the_service_runs_and_arrives_as_the_same_message(
    site: ResultsSite, mllp_receiver: Receiver
) -> None:
    mllp = mllp_receiver(["AE", "AA"])
    with site.process(hl7_to(mllp.port)):
        site.publish(nodule())
        site.wait("ris", "parked")
        (parked,) = listed(site)
        assert (parked["destination"], parked["format"], parked["state"]) == ("ris", "oru", "parked")
        assert parked["attempts"] == 1
        assert "said so" in parked["reason"]
        assert parked["study_uid"] == nodule().study_instance_uid
        done = hilum(site, "deliveries", "--retry", str(parked["id"]))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{parked['id']}: oru to ris: queued: put back in the queue")
        site.wait("ris", "accepted")
    assert len(mllp.script.got) == 2
    assert mllp.script.got[0] == mllp.script.got[1]
    assert [a.outcome for a in site.rows(tables.delivery_attempts)] == ["parked", "accepted"]
    assert listed(site) == []


def test_after_its_destination_is_removed_a_delivery_is_parked_and_goes_out_when_it_is_back(
    site: ResultsSite, mllp_receiver: Receiver
) -> None:
    with site.process(hl7_to(free_port())):  # nothing listens there
        site.publish(nodule())
        site.wait("ris", "queued")
    with site.process(""):
        site.wait("ris", "parked")
    (parked,) = listed(site)
    assert parked["reason"] == "its destination is not in the configuration"
    refused = hilum(site, "deliveries", "--retry", str(parked["id"]))
    assert refused.returncode == 1
    assert "still parked: its destination is not in the configuration" in refused.stdout
    mllp = mllp_receiver(["AA"])
    with site.process(hl7_to(mllp.port)):
        site.wait("ris", "accepted")
    assert len(mllp.script.got) == 1


def test_a_destination_of_another_kind_gets_its_own_format_only(site: ResultsSite, http_receiver: Receiver) -> None:
    with site.process(hl7_to(free_port())):
        site.publish(nodule())
        site.wait("ris", "queued")
    http = http_receiver([(200, b"{}")])
    with site.process(fhir_to(http.port).replace('name = "fhir"', 'name = "ris"')):
        site.wait("ris", "parked")
        site.publish(nodule(revision=2))
        site.wait_state("ris", "accepted", revision=2)
    assert site.rows(tables.deliveries)[0].reason == "its destination takes another format now"
    assert http.script.got == [site.content("fhir", revision=2)]


def test_all_parked_deliveries_go_back_at_once_also_while_the_service_is_down(
    site: ResultsSite, mllp_receiver: Receiver
) -> None:
    mllp = mllp_receiver(["AE", "AA"])
    with site.process(hl7_to(mllp.port)):
        site.publish(nodule())
        site.wait("ris", "parked")
    done = hilum(site, "deliveries", "--retry", "--all")
    assert (done.returncode, done.stdout.count(": queued:")) == (0, 1), done.stderr
    with site.process(hl7_to(mllp.port)):
        site.wait("ris", "accepted")
    assert hilum(site, "deliveries", "--retry", "--all").stdout == "No delivery is parked.\n"
