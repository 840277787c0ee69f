"""Services whose machines are ten minutes apart share leases: the database's clock decides, not theirs."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from hilum.adapters.sql import tables
from hilum.adapters.sql.database import transaction
from hilum.domain.identity import derive_uid
from hilum.domain.inference import ImageReference, InferenceRequest, Lane, Task, TaskKind
from hilum.testing.external import need
from hilum.testing.postgresql import Database
from hilum_worker.handlers import jobs

CLAIM = """
import json, sys
from datetime import datetime, timedelta, UTC
from pydantic import SecretStr
from hilum.adapters.sql.clock import clock_of
from hilum.adapters.sql.database import open_database, transaction
from hilum_worker.handlers import jobs
url, password, lease_s = sys.argv[1:]
engine = open_database(url, password=SecretStr(password))
now = clock_of(engine).now()
with transaction(engine) as connection:
    taken = jobs.claim(connection, worker="w:1", now=now, lease=timedelta(seconds=float(lease_s)),
                       max_wait=timedelta(hours=1), attempts=5)
wall = datetime.now(UTC)
print(json.dumps({"claimed": taken is not None, "now": now.isoformat(), "wall": wall.isoformat()}))
"""


def claim(database: Database, skew: str, *, lease_s: float) -> tuple[bool, datetime, datetime]:
    """Whether a worker on a machine that is `skew` off got the job; its shared clock and its machine's clock."""
    program = need("faketime", install="faketime")
    command = [program, "-f", skew, sys.executable, "-c", CLAIM, database.url, database.password.get_secret_value()]
    done = subprocess.run([*command, str(lease_s)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    return said["claimed"], datetime.fromisoformat(said["now"]), datetime.fromisoformat(said["wall"])


@pytest.mark.parametrize(("first", "second"), [("-10m", "+10m"), ("+10m", "-10m")])
def test_a_lease_holds_and_ends_alike_on_machines_twenty_minutes_apart(
    postgresql_database: Database, first: str, second: str
) -> None:
    engine = postgresql_database.open()
    uid = derive_uid("test-study", "one")
    now = datetime.now(UTC)
    request = InferenceRequest(
        uid, 1, Lane.STAT, (Task(TaskKind.REPORT),), (ImageReference(uid, uid, "1.2", "spool:x", 1, 1, 8, 8),), "r",
        now, now,
    )  # fmt: skip
    with transaction(engine) as connection:
        jobs.enqueue(connection, request, now=now)
    got, told, wall = claim(postgresql_database, first, lease_s=300)
    assert got
    assert abs(told - datetime.now(UTC)) < timedelta(minutes=1)
    assert abs(abs(wall - told) - timedelta(minutes=10)) < timedelta(minutes=1)  # the machine's own clock is off
    assert not claim(postgresql_database, second, lease_s=1)[
        0
    ]  # by its own clock the lease would be over, or not begun
    with transaction(engine) as connection:
        connection.execute(sa.update(tables.jobs).values(lease_until=datetime.now(UTC) - timedelta(seconds=1)))
    assert claim(postgresql_database, second, lease_s=1)[0]
    engine.dispose()
