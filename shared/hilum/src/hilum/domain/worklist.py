"""Reading order: a pure function of order priority, AI priority and wait.

A finding lifts, nothing lowers what a human or the order set, and a study past its limit goes to the top.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from hilum.domain.study import OrderPriority

RANK: Mapping[OrderPriority, int] = {OrderPriority.STAT: 0, OrderPriority.URGENT: 1, OrderPriority.ROUTINE: 2}


@dataclass(frozen=True, slots=True)
class Entry:
    """A study that waits to be read.

    Attributes:
        waiting_since: when the last image of its first complete revision arrived: a late image costs no place.
        urgent_labels: labels whose findings reached the urgent threshold of the model version that made them,
            most probable first; empty when the AI found nothing urgent or did not run.
    """

    study_instance_uid: str
    order_priority: OrderPriority
    waiting_since: datetime
    urgent_labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """The longest wait for each order priority before a study goes to the top."""

    stat: timedelta
    urgent: timedelta
    routine: timedelta

    def of(self, priority: OrderPriority) -> timedelta:
        return {OrderPriority.STAT: self.stat, OrderPriority.URGENT: self.urgent}.get(priority, self.routine)


@dataclass(frozen=True, slots=True)
class Place:
    """One row of the reading list. `position` counts from 1; `reason` says why it stands there."""

    entry: Entry
    position: int
    priority: OrderPriority
    overdue: bool
    wait: timedelta
    reason: str


def reading_order(entries: Sequence[Entry], limits: Limits, *, now: datetime) -> tuple[Place, ...]:
    """Overdue studies first, longest past their limit on top; then by priority; then the longest wait first.

    Ties are broken by the study UID, so the order is the same for the same input in any order. Between two studies past
    their limits the order never changes again, and none that arrives later passes them: nobody starves.
    """

    def key(entry: Entry) -> tuple[bool, int, float, str]:
        wait = now - entry.waiting_since
        over = wait - limits.of(entry.order_priority)
        if over >= timedelta(0):
            return (False, 0, -over.total_seconds(), entry.study_instance_uid)
        return (True, RANK[effective_priority(entry)], -wait.total_seconds(), entry.study_instance_uid)

    return tuple(_place(entry, n, limits, now) for n, entry in enumerate(sorted(entries, key=key), start=1))


def effective_priority(entry: Entry) -> OrderPriority:
    """The more urgent of the order's priority and the AI's; an urgent finding counts as `urgent`, never as STAT."""
    if entry.urgent_labels and RANK[entry.order_priority] > RANK[OrderPriority.URGENT]:
        return OrderPriority.URGENT
    return entry.order_priority


def _place(entry: Entry, position: int, limits: Limits, now: datetime) -> Place:
    wait = max(now - entry.waiting_since, timedelta(0))  # the sender's or this machine's clock may have been set back
    limit = limits.of(entry.order_priority)
    priority = effective_priority(entry)
    overdue = wait >= limit
    found = ", ".join(entry.urgent_labels)
    if overdue:
        reason = f"waited {_words(wait)}, past the {_words(limit)} limit for {entry.order_priority} orders"
        reason += f"; AI: {found}" if found else ""
    elif priority is not entry.order_priority:
        reason = f"lifted by AI: {found}; ordered {entry.order_priority}, waiting {_words(wait)}"
    else:
        reason = f"ordered {entry.order_priority}, waiting {_words(wait)}"
        reason += f"; AI: {found}" if found else ""
    return Place(entry, position, priority, overdue, wait, reason)


def _words(duration: timedelta) -> str:
    total = int(duration.total_seconds())
    if total < 60:
        return f"{total} s"
    hours, minutes = divmod(total // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
