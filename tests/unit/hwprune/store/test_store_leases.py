import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from hwprune.errors import StoreError
from hwprune.store import Lease, Leases, Store
from hwprune.store.tables import leases as table

MINE = Lease("pi4", "a" * 32, "process 1 on here", "boot pid:[1] 1 100", 1.5)
THEIRS = Lease("pi4", "b" * 32, "process 2 on there", "", 2.5)


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[Leases]:
    with Store.open(tmp_path / "store.db", tmp_path) as store:
        yield store.leases


def test_a_free_device_is_taken_by_the_first_and_found_as_it_was_entered(leases: Leases) -> None:
    assert leases.find("pi4") is None
    assert leases.take(MINE)
    assert not leases.take(THEIRS)
    assert leases.find("pi4") == MINE
    assert leases.take(replace(THEIRS, device="xeon"))


def test_a_heartbeat_counts_and_touches_no_other_device(leases: Leases) -> None:
    other = replace(THEIRS, device="xeon")
    leases.take(MINE)
    leases.take(other)
    assert leases.renew(MINE)
    assert leases.renew(MINE)
    assert leases.find("pi4") == replace(MINE, heartbeat=2)
    assert leases.find("xeon") == other


def test_a_released_device_is_free_and_its_lease_cannot_be_renewed(leases: Leases) -> None:
    leases.take(MINE)
    leases.release(THEIRS)
    assert leases.find("pi4") == MINE
    leases.release(MINE)
    assert leases.find("pi4") is None
    assert not leases.renew(MINE)
    assert leases.take(THEIRS)


def test_a_dead_lease_is_taken_over_once_and_its_holder_notices(leases: Leases) -> None:
    leases.take(MINE)
    third = replace(THEIRS, token="c" * 32)
    assert leases.take(THEIRS, instead_of=MINE)
    assert not leases.take(third, instead_of=MINE)
    assert leases.find("pi4") == THEIRS
    assert not leases.renew(MINE)
    leases.release(MINE)
    assert leases.find("pi4") == THEIRS


def test_a_lease_that_was_renewed_since_it_was_found_is_alive(leases: Leases) -> None:
    leases.take(MINE)
    leases.renew(MINE)
    assert not leases.take(THEIRS, instead_of=MINE)
    assert leases.find("pi4") == replace(MINE, heartbeat=1)


def test_of_many_who_want_a_device_at_once_one_gets_it(tmp_path: Path) -> None:
    count = 8
    start, won = threading.Barrier(count), []

    def want(number: int) -> None:
        with Store.open(tmp_path / "store.db", tmp_path) as store:
            start.wait(30)
            if store.leases.take(replace(MINE, token=f"{number:032}")):
                won.append(number)

    Store.open(tmp_path / "store.db", tmp_path).close()
    threads = [threading.Thread(target=want, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with Store.open(tmp_path / "store.db", tmp_path) as store:
        found = store.leases.find("pi4")
    assert found is not None
    assert [f"{number:032}" for number in won] == [found.token]


def test_a_store_that_is_locked_is_a_store_error(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db", tmp_path, busy_timeout_s=0.1) as store:
        with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="another process is writing"):
                store.leases.take(MINE)
        assert store.leases.take(MINE)


def test_a_store_from_before_there_were_leases_is_migrated_and_keeps_its_rows(tmp_path: Path) -> None:
    import hwprune.store

    path = tmp_path / "store.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(hwprune.store.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(path)) as rows, rows:
        fields = "'k', 'c', 'pi4', 'f', 1, 's', 1, 'A', 1.0, 0.0, NULL, NULL, '{}'"
        rows.execute(f"INSERT INTO measurements VALUES (1, {fields})")
    with Store.open(path, tmp_path) as store:
        assert store.leases.take(MINE)
    with closing(sqlite3.connect(path)) as rows:
        assert rows.execute("SELECT device, latency_ms FROM measurements").fetchall() == [("pi4", 1.0)]


def test_postgresql_is_told_the_same() -> None:
    statement = sa.update(table).where(table.c.token == "t").values(heartbeat=table.c.heartbeat + 1)
    text = str(statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}))
    assert text == "UPDATE leases SET heartbeat=(leases.heartbeat + 1) WHERE leases.token = 't'"
