"""One run: start, send under fire, wait until it is quiet, count."""

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hilum.domain.errors import Busy
from hilum_standalone.chaos import account
from hilum_standalone.chaos.cluster import Cluster, Size, cluster
from hilum_standalone.chaos.faults import Killer, Pace
from hilum_standalone.chaos.traffic import Traffic, make_studies

_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """`quiet_s`: how long everything may take to come to its end after the last fault."""

    seed: int
    studies: int = 500
    faults: int = 200
    senders: int = 4
    quiet_s: float = 300.0
    pace: Pace = field(default_factory=Pace)
    size: Size = field(default_factory=Size)


@dataclass(frozen=True, slots=True)
class Report:
    """`wrong` is empty when nothing was lost and nothing came twice."""

    seed: int
    faults: dict[str, int]
    instances: int
    resent: int
    unasked: dict[str, list[str]]
    took_s: float
    quiet_after_s: float
    wrong: tuple[str, ...]
    exits: dict[str, int]

    def lines(self) -> list[str]:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        return [
            f"seed {self.seed}: {sum(self.faults.values())} faults ({faults}) in {self.took_s:.0f} s",
            f"{self.instances} instances acknowledged; quiet {self.quiet_after_s:.1f} s after the last fault",
            f"{self.resent} deliveries came to a destination again, with the same identity and bytes",
            *(f"{name} ended by itself: {how}" for name, ends in self.unasked.items() for how in ends),
            *(f"{name} ended with {code} after SIGTERM" for name, code in self.exits.items() if code),
            *(f"WRONG: {one}" for one in self.wrong[:40]),
            f"{len(self.wrong)} things are wrong" if self.wrong else "nothing lost, nothing twice",
        ]


def chaos(folder: Path, plan: Plan, *, say: Callable[[str], None]) -> Report:
    """Raises: AssertionError: the cluster did not start, or never came to rest."""
    say(f"seed {plan.seed}")
    began = time.monotonic()
    studies = make_studies(folder / "sent", plan.studies, plan.seed)
    killer: Killer | None = None
    try:
        with cluster(folder / "cluster", plan.size) as found:
            say(f"a cluster of {len(found.units)} processes serves after {time.monotonic() - began:.0f} s")
            traffic = Traffic(found.dicom_ports, plan.seed)
            killer = Killer(found.units, found.cuts, plan.seed, plan.pace, say)
            started = time.monotonic()
            sending = threading.Thread(target=traffic.run, args=(studies,), kwargs={"senders": plan.senders})
            sending.start()
            killer.run(plan.faults, going_on=lambda: plan.faults > 0 and sending.is_alive())
            took_s = time.monotonic() - started
            sending.join()
            last = time.monotonic()
            engine = found.database.open()
            left = _wait_until_quiet(engine, len(studies), plan.quiet_s, say)
            quiet_after_s = time.monotonic() - last
            wrong = account.faults_found(found, engine, traffic.acknowledged)
            engine.dispose()
            files = sum(len(study.files) for study in studies)
            report = Report(
                seed=plan.seed,
                faults=dict(killer.kinds),
                instances=len(traffic.acknowledged),
                resent=account.sent_again(found),
                unasked={unit.name: unit.unasked for unit in found.units if unit.unasked},
                took_s=took_s,
                quiet_after_s=quiet_after_s,
                wrong=(
                    *([f"still under way: {left}"] if left else []),
                    *(wrong),
                    *killer.errors,
                    *(
                        [f"{files - len(traffic.acknowledged)} never acknowledged"]
                        if files != len(traffic.acknowledged)
                        else []
                    ),
                ),
                exits=found.stop(),
            )
        if not report.wrong:
            shutil.rmtree(folder, ignore_errors=True)
        return report
    finally:
        if killer is not None:
            killer.close()


def _wait_until_quiet(engine: object, studies: int, patience_s: float, say: Callable[[str], None]) -> str:
    from sqlalchemy import Engine

    assert isinstance(engine, Engine)
    deadline, said, left, calm = time.monotonic() + patience_s, 0.0, "everything", 0
    while time.monotonic() < deadline:
        with suppress(Busy):
            left = account.quiet(engine, studies)
            calm = 0 if left else calm + 1
            if calm >= 4:  # a message may be between the outbox and its consumer
                return ""
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"waiting for: {left or 'calm'}")
        time.sleep(_LOOK_S)
    return left


__all__ = ["Cluster", "Plan", "Report", "chaos"]
