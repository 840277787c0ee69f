"""The results process that is killed or stopped while it sends, and a destination that is away."""

import threading
import time
from typing import Any

from hilum.adapters.sql import tables
from hilum.testing.external import Process, free_port, wait_until
from hilum.testing.receivers import Receiver
from hilum_results.testing import ResultsSite, dicom, hl7_to, nodule, storescp


def test_a_dead_pacs_holds_up_no_other_destination_and_is_served_when_it_is_back(
    site: ResultsSite, mllp_receiver: Receiver
) -> None:
    port = free_port()
    mllp = mllp_receiver(["AA"])
    with site.running(dicom(port) + hl7_to(mllp.port)):
        site.publish(nodule())
        site.wait("ris", "accepted")
        wait_until(lambda: len([a for a in site.rows(tables.delivery_attempts) if a.outcome == "retry"]) >= 2)
        pacs = site.folder / "pacs"
        with storescp(pacs, port):
            site.wait("pacs", "accepted")
            assert len(list(pacs.iterdir())) == 1


def test_killed_between_the_send_and_the_commit_it_sends_the_same_message_again(
    site: ResultsSite, mllp_receiver: Receiver
) -> None:
    killed = threading.Event()
    victim: list[Process] = []

    class KillingAnswer(list[Any]):
        """The receiver has the message; the sender is killed before it can write down the answer."""

        def __getitem__(self, index: Any) -> Any:
            if not killed.is_set():
                victim[0].kill()
                killed.set()
            return "AA"

    mllp = mllp_receiver(KillingAnswer(["AA"]))
    victim.append(site.process(hl7_to(mllp.port)))
    site.publish(nodule())
    assert killed.wait(20)
    assert site.state("ris") == "sending"
    with site.process(hl7_to(mllp.port)):
        site.wait("ris", "accepted")
    assert len(mllp.script.got) == 2
    assert mllp.script.got[0] == mllp.script.got[1]
    assert [a.attempt for a in site.rows(tables.delivery_attempts)] == [2]


def test_terminated_it_finishes_what_it_is_sending(site: ResultsSite, mllp_receiver: Receiver) -> None:
    stopping: list[Process] = []

    class SlowAnswer(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            stopping[0].popen.terminate()
            time.sleep(0.5)
            return "AA"

    mllp = mllp_receiver(SlowAnswer(["AA"]))
    stopping.append(site.process(hl7_to(mllp.port)))
    site.publish(nodule())
    assert stopping[0].popen.wait(20) == 0
    assert site.state("ris") == "accepted"
