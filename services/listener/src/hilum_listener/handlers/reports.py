"""The commit role: reports what was decided to whoever asked, again and again until it is acknowledged."""

import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import commitment_requests
from hilum.domain.errors import Busy
from hilum.ports.clock import Clock
from hilum.runtime.config import Peer
from hilum.runtime.logs import Log
from hilum_listener.handlers.commitment import Delivery, Outgoing
from hilum_listener.handlers.offers import Offer, Offers, key_of

_LOG = Log("hilum.listener.commit")
_LOOK_S = 0.25
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=2), timedelta(minutes=5)
_LEASE = timedelta(seconds=90)
_OFFERED_S, _TAKEN_S = 1.0, 40.0


class Sender(Protocol):
    def send(self, outgoing: Outgoing, peer: Peer) -> Delivery:
        """One attempt on an association of its own; trouble of any kind is an undelivered report."""
        ...


def pause(attempts: int) -> timedelta:
    """How long to wait after so many attempts: doubled each time, five minutes at most."""
    doubled: timedelta = _FIRST_PAUSE * (1 << min(attempts - 1, 20))
    return min(doubled, _LONGEST_PAUSE)


class Reporter:
    """Claims by lease, so that a killed one's reports are taken up by the next."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        peers: Sequence[Peer],
        offers: Offers,
        sender: Sender,
        *,
        offered_s: float = _OFFERED_S,
    ) -> None:
        self._offered_s = offered_s
        self._engine = engine
        self._clock = clock
        self._peers = peers
        self._offers = offers
        self._sender = sender

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                if self.step():
                    continue
            except Busy as error:
                _LOG.warning("waiting", reason=error.reason)
            stop.wait(_LOOK_S)

    def step(self) -> bool:
        """Reports one that is due; False when none is.

        Raises:
            Busy: the database is away.
        """
        outgoing = self._claim(self._clock.now())
        if outgoing is None:
            return False
        delivery = self._deliver(outgoing)
        self._settle(outgoing, delivery, self._clock.now())
        self._offers.clear(outgoing.notice)
        return True

    def _claim(self, now: datetime) -> Outgoing | None:
        table = commitment_requests.c
        due = sa.or_(
            sa.and_(table.state == "due", table.due_at <= now),
            sa.and_(table.state == "sending", table.lease_until <= now),
        )
        query = sa.select(commitment_requests).where(due).order_by(table.due_at).limit(1)
        with reading(self._engine) as connection:
            if connection.execute(query).first() is None:
                return None
        with transaction(self._engine) as connection:
            row: Any = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            claimed = {"state": "sending", "token": row.token + 1, "attempts": row.attempts + 1}
            connection.execute(
                sa.update(commitment_requests)
                .where(table.notice == row.notice)
                .values(lease_until=now + _LEASE, **claimed)
            )
        return Outgoing(
            row.notice,
            row.transaction_uid,
            row.calling_ae,
            row.association,
            row.report,
            row.attempts + 1,
            row.token + 1,
        )

    def _settle(self, outgoing: Outgoing, delivery: Delivery, now: datetime) -> None:
        if delivery.delivered:
            values: dict[str, Any] = {"state": "delivered", "delivered_at": now, "reason": ""}
            _LOG.info("commitment reported", peer=outgoing.calling_ae, attempts=outgoing.attempts)
        else:
            values = {"state": "due", "due_at": now + pause(outgoing.attempts), "reason": delivery.reason}
            _LOG.warning(
                "commitment not reported",
                peer=outgoing.calling_ae,
                attempts=outgoing.attempts,
                reason=delivery.reason,
            )
        table = commitment_requests.c
        with transaction(self._engine) as connection:
            connection.execute(
                sa.update(commitment_requests)
                .where(table.notice == outgoing.notice, table.token == outgoing.token)
                .values(lease_until=None, **values)
            )
            if not delivery.delivered:  # one that doesn't answer holds nobody else up
                of_same = (table.calling_ae == outgoing.calling_ae, table.state == "due")
                connection.execute(
                    sa.update(commitment_requests)
                    .where(*of_same, table.due_at < values["due_at"])
                    .values(due_at=values["due_at"])
                )

    def _deliver(self, outgoing: Outgoing) -> Delivery:
        """On the association that asked if it is still open, else on a new one to the configured place."""
        if self._offers.was_delivered(outgoing.notice) or self._on_the_same(outgoing):
            return Delivery(True)
        asked_by = outgoing.calling_ae.strip()
        for peer in self._peers:
            if peer.ae_title.strip() == asked_by and peer.host is not None and peer.port is not None:
                return self._sender.send(outgoing, peer)
        return Delivery(False, "its association has ended, and no host and port are configured for its AE title")

    def _on_the_same(self, outgoing: Outgoing) -> bool:
        key = key_of(outgoing.notice, outgoing.token)
        try:
            self._offers.make(Offer(key, outgoing.association, outgoing.transaction_uid, outgoing.report))
        except OSError as error:
            _LOG.warning("report not offered", reason=type(error).__name__)
            return False
        deadline = time.monotonic() + self._offered_s
        while time.monotonic() < deadline:
            if (outcome := self._offers.outcome(key)) is not None:
                return outcome
            time.sleep(0.02)
        if self._offers.withdraw(key):
            return False
        deadline = time.monotonic() + _TAKEN_S
        while time.monotonic() < deadline:
            if (outcome := self._offers.outcome(key)) is not None:
                return outcome
            time.sleep(0.05)
        return False
