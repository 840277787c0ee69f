"""The demo's receivers as one process: `python -m hilum_standalone.receivers --data DIR --dicom N --fhir N --hl7 N`."""

import argparse
from pathlib import Path

from hilum.runtime.lifecycle import announce_ready, stop_on_signals, stop_with_parent
from hilum.runtime.logs import Log, configure
from hilum_standalone.receivers import dicom, fhir, mllp
from hilum_standalone.receivers.kept import Kept

_HOST = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(prog="hilum_standalone.receivers", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    for kind in ("dicom", "fhir", "hl7"):
        parser.add_argument(f"--{kind}", type=int, required=True, help="the port")
    options = parser.parse_args()
    configure("receivers")
    stop = stop_on_signals()
    stop_with_parent(stop)
    received = options.data / "received"
    store = dicom.serve(Kept(received / "dicom"), host=_HOST, port=options.dicom)
    bundles = fhir.serve(Kept(received / "fhir"), received / "fhir-index.json", host=_HOST, port=options.fhir)
    messages = mllp.serve(Kept(received / "hl7"), host=_HOST, port=options.hl7)
    Log("hilum.receivers").info("receiving", port=options.dicom)
    announce_ready(options.data, "receivers")
    stop.wait()
    store.shutdown()
    bundles.shutdown()
    messages.shutdown()


if __name__ == "__main__":
    main()
