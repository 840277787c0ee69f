"""A service stops when it is told to, whatever its threads are doing."""

import signal
import subprocess
import sys

import pytest

WAITING = {
    "in an event without a timeout": "stop.wait()",
    "in a join": "t = threading.Thread(target=stop.wait); t.start(); t.join()",
    "in the event's own lock, over and over": "\nwhile not stop.wait(0): pass",
}


@pytest.mark.parametrize("place", WAITING)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_process_whose_main_thread_waits(place: str, number: signal.Signals) -> None:
    program = (
        "import threading\n"
        "from hilum.runtime.lifecycle import stop_on_signals\n"
        "stop = stop_on_signals()\n"
        "print('ready', flush=True)\n" + WAITING[place] + "\nprint('stopped', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            assert process.communicate(timeout=20)[0] == "stopped\n"
            assert process.returncode == 0
        finally:
            process.kill()
