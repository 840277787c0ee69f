"""`python -m hilum_standalone.ingest.bench`: every row of the front door's speed, one after the other.

Each measurement starts its receiver on an empty folder, warms it up with one object, and takes the sender's own time
from connect to the end of the release. The order of the receivers is reversed in each second round.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import click

from hilum_standalone.ingest import material
from hilum_standalone.ingest.accepting import accept_ms
from hilum_standalone.ingest.receivers import NO_SYNC, Receiver, hilum, orthanc, sink, storescp

_PDU = "131072"
_ALONE = 100
"""Objects in the measurement of one association per instance."""
_NAGLED = 150

Measure = Callable[[Receiver, int], float]


@dataclass(frozen=True, slots=True)
class Row:
    """`target`: the limit of Hilum's time over the other's; below 1 it says how much faster Hilum must be. Without
    another receiver it is the limit of the time itself."""

    name: str
    receivers: tuple[Receiver, ...]
    measure: Measure
    target: float | None
    unit: str = "s"


class Senders:
    """The programs and data sets that the rows share."""

    def __init__(self, tools: Path, folder: Path) -> None:
        self._folder = folder
        self.cblast, self.csink = (_compile(tools / f"{name}.c", folder / name) for name in ("cblast", "csink"))
        source = folder / "nosync.c"
        source.write_text(NO_SYNC)
        self.no_sync = _compile(source, folder / "nosync.so", "-shared", "-fPIC")
        (self._warm_up,) = material.write(material.TINY, folder / "warm-up", count=1)

    def blast(self, kind: material.Kind, *, associations: int = 1) -> Measure:
        folders = material.write(kind, self._folder / "data", parts=associations)

        def measure(receiver: Receiver, port: int) -> float:
            self._blast(receiver, port, [self._warm_up])
            told = self._blast(receiver, port, folders)
            return float(max(one["t3"] for one in told) - min(one["t0"] for one in told))

        return measure

    def alone(self) -> Measure:
        folders = material.write(material.TINY, self._folder / "alone", count=_ALONE, parts=_ALONE)

        def measure(receiver: Receiver, port: int) -> float:
            self._blast(receiver, port, [self._warm_up])
            return 1000 * statistics.mean(self._blast(receiver, port, [one])[0]["total_s"] for one in folders)

        return measure

    def nagled(self) -> Measure:
        (folder,) = material.write(material.MR, self._folder / "nagled", count=_NAGLED)

        def measure(receiver: Receiver, port: int) -> float:
            self._blast(receiver, port, [self._warm_up])
            command = ["dcmsend", "-aec", receiver.called_ae, "+sd", "127.0.0.1", str(port), str(folder)]
            environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
            begin = monotonic()
            subprocess.run(command, check=True, capture_output=True, env=environment, timeout=120)
            return monotonic() - begin

        return measure

    def _blast(self, receiver: Receiver, port: int, folders: Sequence[Path]) -> list[dict[str, float]]:
        environment = {**os.environ, "CALLED_AE": receiver.called_ae}
        senders = [
            subprocess.Popen([self.cblast, str(port), _PDU, str(one)], stdout=subprocess.PIPE, env=environment)
            for one in folders
        ]
        told = [json.loads(sender.communicate(timeout=300)[0]) for sender in senders]
        if any(one["bad"] for one in told):
            raise click.ClickException(f"{receiver.name} refused objects")
        return told


def _compile(source: Path, program: Path, *options: str) -> Path:
    if shutil.which("cc") is None:
        raise click.ClickException("a C compiler is missing (apt-get install gcc)")
    if not source.exists():
        raise click.ClickException(f"{source} is missing; --tools names the folder with the C sender and sink")
    subprocess.run(["cc", "-O2", "-w", "-pthread", *options, "-o", program, source], check=True)
    return program


def rows(senders: Senders) -> list[Row]:
    ours, limit, bare = hilum(), sink(senders.csink), hilum(no_sync=senders.no_sync)
    asked, prompt = orthanc(prompt=False), orthanc(prompt=True)
    plain, tuned, slow = storescp(), storescp(tuned=True), storescp(prompt=False)
    ct, ct4 = senders.blast(material.CT), senders.blast(material.CT, associations=4)
    tiny, tiny4 = senders.blast(material.TINY), senders.blast(material.TINY, associations=4)
    nagled = senders.nagled()
    return [
        Row("CT 525 KB x 400, 1 association", (ours, limit), ct, 1.15),
        Row("MR 131 KB x 600", (ours, limit), senders.blast(material.MR), 1.25),
        Row("CR 15 MB x 20", (ours, limit), senders.blast(material.CR), 1.15),
        Row("CT, 1 association", (ours, asked), ct, 1 / 4),
        Row("CT, 4 associations", (ours, asked), ct4, 1 / 4),
        Row("tiny 10 KB x 2000, 1 association", (ours, asked), tiny, 1 / 4),
        Row("tiny, 4 associations", (ours, asked), tiny4, 1 / 4),
        Row("CT, 1 association, prompt", (ours, prompt), ct, None),
        Row("CT, 4 associations, prompt", (ours, prompt), ct4, None),
        Row("tiny, 1 association, prompt", (ours, prompt), tiny, None),
        Row("tiny, 4 associations, prompt", (ours, prompt), tiny4, None),
        Row("plain dcmsend, MR x 150, Orthanc", (ours, asked), nagled, 1 / 50),
        Row("plain dcmsend, MR x 150, storescp", (ours, slow), nagled, 1 / 50),
        Row("CT, 1 association, no syncs, plain", (bare, plain), ct, 1.15),
        Row("CT, 1 association, no syncs, defaults", (bare, slow), ct, None),
        Row("CT, 1 association, no syncs, tuned", (bare, tuned), ct, 1.0),
        Row("CT, 4 associations, no syncs, tuned", (bare, tuned), ct4, 1.0),
        Row("tiny, 1 association, no syncs, tuned", (bare, tuned), tiny, 1.0),
        Row("tiny, 4 associations, no syncs, tuned", (bare, tuned), tiny4, 1.0),
        Row("one association per instance", (ours, prompt), senders.alone(), 1.0, "ms"),
        Row("accepting 128 contexts x 3 syntaxes", (ours,), lambda r, port: accept_ms(port, 3), 15.0, "ms"),
        Row("accepting 128 contexts x 45 syntaxes", (ours,), lambda r, port: accept_ms(port, 45), None, "ms"),
    ]


def measure(row: Row, folder: Path, rounds: int) -> list[list[float]]:
    """Times by receiver, in ABBA order."""
    times: list[list[float]] = [[] for _ in row.receivers]
    order = list(range(len(row.receivers)))
    for number in range(rounds):
        for index in order if number % 2 == 0 else order[::-1]:
            receiver = row.receivers[index]
            with receiver.running(folder / f"{number}-{index}") as port:
                times[index].append(row.measure(receiver, port))
    return times


def line(row: Row, times: Sequence[Sequence[float]]) -> str:
    """One row of the table: medians with their range, the ratio, the target."""
    medians = [statistics.median(one) for one in times]
    cells = [
        f"{receiver.name} {median:.3g} {row.unit} ({min(one):.3g} to {max(one):.3g})"
        for receiver, median, one in zip(row.receivers, medians, times, strict=True)
    ]
    if len(medians) < 2:
        verdict = "-" if row.target is None else "met" if medians[0] <= row.target else "missed"
        return f"| {row.name} | {cells[0]} | - | target {row.target or 'none'} | {verdict} |"
    ratio = medians[0] / medians[1]
    shown = f"{ratio:.2f} x" if ratio >= 0.5 else f"1 / {1 / ratio:.1f}"
    if row.target is None:
        return f"| {row.name} | {cells[0]} | {cells[1]} | {shown} | - |"
    target = f"{row.target:.2f}" if row.target >= 1 else f"1 / {1 / row.target:.0f}"
    verdict = "met" if ratio <= row.target else "missed"
    return f"| {row.name} | {cells[0]} | {cells[1]} | {shown}, target {target} | {verdict} |"


@click.command()
@click.option("--tools", type=click.Path(path_type=Path), default=Path("../shared/tools/ingest"), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--only", default="", help="only the rows with this word in their name")
@click.option("--folder", type=click.Path(path_type=Path), help="where everybody writes, on the disk to measure")
def main(tools: Path, rounds: int, only: str, folder: Path | None) -> None:
    """Measures the listener against the C sink, Orthanc and storescp."""
    missing = [name for name in ("Orthanc", "storescp", "dcmsend") if shutil.which(name) is None]
    if missing:
        raise click.ClickException(f"missing: {', '.join(missing)} (apt-get install orthanc dcmtk)")
    with tempfile.TemporaryDirectory(prefix="hilum-ingest-", dir=folder, ignore_cleanup_errors=True) as name:
        place = Path(name)
        senders = Senders(tools, place)
        click.echo(f"{os.cpu_count()} cores, {platform.release()}, Python {platform.python_version()}, {rounds} rounds")
        click.echo("| what | Hilum | other | Hilum's time | |\n| --- | --- | --- | --- | --- |")
        for number, row in enumerate(rows(senders)):
            if only in row.name:
                # apart by row: what was received stays until the end
                click.echo(line(row, measure(row, place / f"received-{number}", rounds)))
        click.echo(f"load average at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
