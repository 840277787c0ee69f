"""The behaviour of transactions, the same on SQLite and on PostgreSQL."""

import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from hilum.adapters.sql.database import has_schema, reading, transaction
from hilum.adapters.sql.tables import committed_elsewhere, journal_positions
from hilum.adapters.sql.upsert import insert


def positions(engine: Engine) -> dict[str, int]:
    with reading(engine) as connection:
        return {row.journal: row.position for row in connection.execute(sa.select(journal_positions))}


def put(engine: Engine, journal: str, position: int) -> None:
    with transaction(engine) as connection:
        connection.execute(sa.insert(journal_positions).values(journal=journal, position=position))


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    def fail() -> None:
        with transaction(engine) as connection:
            connection.execute(sa.insert(journal_positions).values(journal="a", position=1))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert positions(engine) == {}


def test_a_reading_transaction_sees_one_moment(engine: Engine) -> None:
    put(engine, "a", 1)
    query = sa.select(sa.func.count()).select_from(journal_positions)
    with reading(engine) as connection:
        assert connection.execute(query).scalar_one() == 1
        put(engine, "b", 2)
        assert connection.execute(query).scalar_one() == 1
    assert len(positions(engine)) == 2


def test_an_insert_that_finds_its_key_changes_nothing_and_says_so(engine: Engine) -> None:
    with transaction(engine) as connection:
        statement = insert(connection, journal_positions).on_conflict_do_nothing()
        counts = [connection.execute(statement.values(journal="a", position=n)).rowcount for n in (1, 2)]
    assert counts == [1, 0]
    assert positions(engine) == {"a": 1}


def test_an_upsert_takes_the_new_values(engine: Engine) -> None:
    with transaction(engine) as connection:
        for position in (1, 2):
            statement = insert(connection, journal_positions).values(journal="a", position=position)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["journal"], set_={"position": statement.excluded.position}
                )
            )
    assert positions(engine) == {"a": 2}


def test_times_keep_their_microseconds_and_their_order(engine: Engine) -> None:
    times = [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), datetime(2026, 11, 24, 12, 0, 0, 1, UTC)]
    with transaction(engine) as connection:
        for number, at in enumerate(times):
            connection.execute(
                sa.insert(committed_elsewhere).values(
                    sop_instance_uid=str(number),
                    calling_ae="A",
                    sop_class_uid="1.2",
                    transaction_uid="1.2",
                    reported_at=at,
                )
            )
    with reading(engine) as connection:
        query = sa.select(committed_elsewhere.c.reported_at).order_by(committed_elsewhere.c.reported_at)
        assert list(connection.execute(query).scalars()) == times


def test_text_with_a_nul_is_stored_and_found(engine: Engine) -> None:
    put(engine, "a\0b", 1)
    query = sa.select(journal_positions.c.position).where(journal_positions.c.journal == "a\0b")
    with reading(engine) as connection:
        assert connection.execute(query).scalar_one() == 1
    assert set(positions(engine)) <= {"a\0b", "a\ufffdb"}


def test_a_broken_constraint_is_a_bug_and_its_text_names_no_value(engine: Engine) -> None:
    put(engine, "Doe^Jane", 1)
    with pytest.raises(IntegrityError) as caught:
        put(engine, "Doe^Jane", 1)
    assert "Doe" not in f"{caught.value} {caught.value.__cause__}"


def test_wrong_sql_is_a_bug(engine: Engine) -> None:
    with pytest.raises(DBAPIError, match="nothing"), transaction(engine) as connection:
        connection.execute(sa.text("SELECT * FROM nothing"))


def test_a_database_says_whether_it_has_its_schema(engine: Engine) -> None:
    assert has_schema(engine)


def test_transactions_of_many_threads_all_arrive(engine: Engine) -> None:
    def work(number: int) -> None:
        for turn in range(5):
            put(engine, f"{number}-{turn}", turn)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(positions(engine)) == 20
