import dataclasses
import datetime
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import alembic.config
import alembic.script
import pytest
import sqlalchemy as sa

import hwprune.store
from hwprune.errors import StoreError
from hwprune.records import Conditions, Measurement
from hwprune.store import Store, shape_key
from hwprune.store.tables import SCHEMA_REVISION, metadata
from latency_models.shapes import LayerShape

CONDITIONS = Conditions("local", "f" * 64, "tvm", "float32", (1, 3, 32, 32), 1, "s1")
SHAPE = LayerShape("conv2d", 16, 32, 8, 8, kernel=(3, 3), padding=(1, 1), epilogue="relu")


def measurement(key: str = "a" * 64, age_s: float = 0, **changes: object) -> Measurement:
    measured_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_s)
    plain = Measurement(
        key,
        CONDITIONS,
        values_ms=(((0.31, 0.3), (0.32,)), ((0.3125,),)),
        drift=0.004,
        trust="A",
        state_before={"governor": None},
        measured_at=measured_at.isoformat(),
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "store.db", tmp_path / "artifacts", busy_timeout_s=0.2) as store:
        yield store


def test_a_measurement_comes_back_equal(store: Store) -> None:
    written = measurement()
    store.add_measurement(written)
    assert store.find_measurement(written.key, CONDITIONS) == written
    assert store.measurements() == [written]


def test_the_newest_trusted_measurement_is_served_and_all_are_kept(store: Store) -> None:
    rows = [
        measurement(age_s=30, load_ms=1.0),
        measurement(age_s=10, load_ms=2.0, trust="B"),
        measurement(age_s=20, load_ms=3.0),
        measurement(age_s=0, load_ms=4.0, trust="C"),
        measurement(age_s=0, load_ms=5.0, values_ms=(), trust="C", error="timed out"),
    ]
    for row in rows:
        store.add_measurement(row)
    served = store.find_measurement(rows[0].key, CONDITIONS)
    assert served is not None
    assert served.load_ms == 2.0
    assert store.measurements(key=rows[0].key) == rows


def test_an_untrusted_measurement_alone_is_not_served(store: Store) -> None:
    store.add_measurement(measurement(trust="C"))
    assert store.find_measurement("a" * 64, CONDITIONS) is None


@pytest.mark.parametrize(
    "change",
    [
        {"device": "other"},
        {"fingerprint": "0" * 64},
        {"engine": "onnxruntime"},
        {"dtype": "float16"},
        {"input_shape": (2, 3, 32, 32)},
        {"threads": 2},
        {"schedule_version": "s2"},
        {"protocol_version": 0},
    ],
)
def test_no_measurement_is_served_under_other_conditions(store: Store, change: dict[str, object]) -> None:
    store.add_measurement(measurement())
    assert store.find_measurement("a" * 64, dataclasses.replace(CONDITIONS, **change)) is None  # type: ignore[arg-type]


def test_an_older_measurement_than_asked_for_is_not_served(store: Store) -> None:
    store.add_measurement(measurement(age_s=100))
    assert store.find_measurement("a" * 64, CONDITIONS, max_age_s=50) is None
    assert store.find_measurement("a" * 64, CONDITIONS, max_age_s=200) is not None


def test_listing_can_be_narrowed_to_a_device(store: Store) -> None:
    elsewhere = measurement(conditions=dataclasses.replace(CONDITIONS, device="pi4"))
    store.add_measurement(measurement())
    store.add_measurement(elsewhere)
    assert store.measurements(device="pi4") == [elsewhere]


def test_the_newest_trusted_row_of_every_kernel_is_returned(store: Store) -> None:
    wider = SHAPE.with_channels(16, 64)
    old, new = measurement(shape_key(SHAPE), age_s=10), measurement(shape_key(SHAPE))
    other, untrusted = measurement(shape_key(wider), age_s=20), measurement(shape_key(wider), trust="C")
    store.add_kernel_measurements([(SHAPE, new), (SHAPE, old), (wider, other), (wider, untrusted)])
    assert dict(store.kernel_measurements("f" * 64, "s1")) == {SHAPE: new, wider: other}
    assert store.measurements() == []


@pytest.mark.parametrize(
    ("fingerprint", "schedule", "threads", "max_age_s"),
    [("0" * 64, "s1", None, None), ("f" * 64, "s2", None, None), ("f" * 64, "s1", 2, None), ("f" * 64, "s1", None, 5)],
)
def test_kernels_of_another_device_schedule_thread_count_or_age_are_left_out(
    store: Store, fingerprint: str, schedule: str, threads: int | None, max_age_s: float | None
) -> None:
    store.add_kernel_measurements([(SHAPE, measurement(shape_key(SHAPE), age_s=10))])
    assert store.kernel_measurements(fingerprint, schedule, threads=threads, max_age_s=max_age_s) == []


def test_kernel_keys_tell_every_field_apart() -> None:
    shapes = [SHAPE, SHAPE.with_channels(17, 32), dataclasses.replace(SHAPE, epilogue=""), SHAPE.template]
    assert len({shape_key(shape) for shape in shapes}) == len(shapes)


def test_the_newest_migration_makes_the_declared_tables(tmp_path: Path, store: Store) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'store.db'}")
    found, declared = sa.inspect(engine), metadata.tables["measurements"]
    columns = {column["name"]: (str(column["type"]), column["nullable"]) for column in found.get_columns(declared.name)}
    assert columns == {column.name: (str(column.type), column.nullable) for column in declared.columns}
    assert {index["name"] for index in found.get_indexes(declared.name)} == {index.name for index in declared.indexes}
    engine.dispose()


def test_the_known_revision_is_the_newest_script() -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(hwprune.store.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    assert alembic.script.ScriptDirectory.from_config(config).get_current_head() == SCHEMA_REVISION


def test_an_older_store_is_migrated(tmp_path: Path) -> None:
    # The oldest store there can be: Alembic has marked it, and nothing has been made yet.
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    connection.close()
    with Store.open(tmp_path / "store.db", tmp_path) as store:
        store.add_measurement(measurement())
        assert len(store.measurements()) == 1


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path, store: Store) -> None:
    store.close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match=r"newer hwprune \(schema 9999.*update hwprune"):
        Store.open(tmp_path / "store.db", tmp_path)
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    connection.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="is not a hwprune store: move it away or restore a backup"):
        Store.open(path, tmp_path / "artifacts")
    assert path.read_bytes() == b"not a database at all" * 100
    assert list(tmp_path.iterdir()) == [path]


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is not a hwprune store: move it away"):
        Store.open(path, tmp_path / "artifacts")
    assert path.read_bytes() == before


def test_damage_inside_the_file_is_named(tmp_path: Path, store: Store) -> None:
    for _ in range(50):
        store.add_measurement(measurement())
    store.close()
    path = tmp_path / "store.db"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with (
        pytest.raises(StoreError, match=r"damaged.*move it away or restore a backup"),
        Store.open(path, tmp_path) as bad,
    ):
        bad.measurements()


def test_a_locked_store_says_so_after_waiting(tmp_path: Path, store: Store) -> None:
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process is writing: try again"):
        store.add_measurement(measurement())
    other.execute("ROLLBACK")
    other.close()
    store.add_measurement(measurement())
    assert len(store.measurements()) == 1


def test_a_read_only_store_serves_and_refuses_to_write(tmp_path: Path, store: Store) -> None:
    store.add_measurement(measurement())
    with Store.open(f"sqlite:///file:{tmp_path / 'store.db'}?mode=ro&uri=true", tmp_path) as read_only:
        assert len(read_only.measurements()) == 1
        with pytest.raises(StoreError, match="read-only: make the file and its folder writable"):
            read_only.add_measurement(measurement())


def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    # A limit on the size of files makes the write fail just as a full disk does.
    script = f"""
import resource
from pathlib import Path
from tests_helper import measurement
from hwprune.errors import StoreError
from hwprune.store import Store
with Store.open({str(tmp_path / "store.db")!r}, Path({str(tmp_path)!r})) as store:
    store.add_measurement(measurement())
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        for _ in range(100):
            store.add_measurement(measurement())
    except StoreError as error:
        print(error)
"""
    script = script.replace("tests_helper", Path(__file__).stem)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": path_of_tests()}, check=True
    )
    assert "free space or name another store in HWPRUNE_STORE" in done.stdout
    with Store.open(tmp_path / "store.db", tmp_path) as store:
        rows = store.measurements()
        assert 1 <= len(rows) < 100
        assert all(row.values_ms == rows[0].values_ms for row in rows)


def test_two_processes_open_and_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from {Path(__file__).stem} import measurement
from hwprune.store import Store
with Store.open({str(tmp_path / "store.db")!r}, Path({str(tmp_path)!r})) as store:
    for _ in range(40):
        store.add_measurement(measurement())
"""
    writers = [subprocess.Popen([sys.executable, "-c", script], env={"PYTHONPATH": path_of_tests()}) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    with Store.open(tmp_path / "store.db", tmp_path) as store:
        assert len(store.measurements()) == 80


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"absent/store\.db failed.*check that its folder exists and is writable"):
        Store.open(tmp_path / "absent" / "store.db", tmp_path)


def test_a_url_of_no_known_database_is_refused() -> None:
    with pytest.raises(StoreError, match="has no driver"):
        Store.open("oracular://host/name", Path())
    with pytest.raises(StoreError, match="not a database URL"):
        Store.open("://", Path())


def test_a_database_that_cannot_be_reached_does_not_show_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql://someone:secret@127.0.0.1:1/hwprune", Path())
    assert "secret" not in str(caught.value)
    assert "postgresql://someone:***@127.0.0.1:1/hwprune" in str(caught.value)


def test_migrating_leaves_the_programs_logging_alone(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("hwprune.store").disabled)
    Store.open(tmp_path / "other.db", tmp_path).close()
    assert (root.level, list(root.handlers), logging.getLogger("hwprune.store").disabled) == before


def path_of_tests() -> str:
    return ":".join([str(Path(__file__).parent), str(Path(hwprune.__file__).parents[1])])
