"""Opens the store's database and brings it to the newest schema; every failure becomes a ``StoreError``."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hwprune.errors import StoreError
from hwprune.store.tables import SCHEMA_REVISION

#: How long a writer waits for another one before it gives up.
BUSY_TIMEOUT_S = 30.0

_REMEDIES = (
    ("locked", "another process is writing: try again when it has ended"),
    ("readonly", "it is read-only: make the file and its folder writable, or name another store in HWPRUNE_STORE"),
    ("read-only", "it is read-only: make the file and its folder writable, or name another store in HWPRUNE_STORE"),
    ("is full", "the disk is full: free space or name another store in HWPRUNE_STORE"),
    ("disk i/o", "the disk cannot be written: free space or name another store in HWPRUNE_STORE"),
    ("not a database", "it is not a hwprune store: move it away or restore a backup"),
    ("malformed", "it is damaged and so is not a hwprune store: move it away or restore a backup"),
    ("unable to open", "it cannot be opened: check that its folder exists and is writable"),
)


def location_of(url_or_path: str | Path) -> sa.URL:
    """Database URL of a file, or the URL itself.

    Raises:
        StoreError: the text is no database URL.
    """
    text = str(url_or_path)
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        return sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise StoreError(
            f"{text!r} is not a database URL: write sqlite:///file.db or postgresql://host/name"
        ) from error


def open_database(url: sa.URL, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sa.Engine:
    """Engine of the store at ``url``, made if absent and migrated if older.

    Raises:
        StoreError: the file is no store, is damaged, is of a newer hwprune, or cannot be reached or written.
    """
    with translated(url):
        try:
            engine = sa.create_engine(url)
        except (sa.exc.ArgumentError, ImportError) as error:
            raise StoreError(f"store {_shown(url)} has no driver ({error}): install it, or use a file") from error
        if engine.dialect.name == "sqlite":
            _behave_as_one_file(engine, busy_timeout_s)
        try:
            _bring_up_to_date(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextlib.contextmanager
def translated(url: sa.URL) -> Iterator[None]:
    """Turn the database's errors into ``StoreError`` with a remedy.

    Raises:
        StoreError: the database failed.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        cause = str(error.orig).strip().splitlines()[0]
        remedy = next((text for mark, text in _REMEDIES if mark in cause.lower()), "check the database and its log")
        raise StoreError(f"store {_shown(url)} failed ({cause}): {remedy}") from error
    except OSError as error:
        raise StoreError(
            f"store {_shown(url)} failed ({error.strerror}): name a writable place in HWPRUNE_STORE"
        ) from error


def _shown(url: sa.URL) -> str:
    is_file = url.get_backend_name() == "sqlite" and url.database and not url.query
    return str(url.database) if is_file else url.render_as_string(hide_password=True)


def _behave_as_one_file(engine: sa.Engine, busy_timeout_s: float) -> None:
    """Let SQLite wait for other writers, and give SQLAlchemy the say over transactions."""

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        # Python's module begins transactions at its own discretion, never before DDL: migrations would not be atomic.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {round(busy_timeout_s * 1000)}")
        connection.execute("PRAGMA synchronous = NORMAL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))


def _bring_up_to_date(engine: sa.Engine) -> None:
    """Make or migrate the tables; leave a file that is no store of ours untouched."""
    with engine.connect() as connection:
        found = _revision(connection, engine.url)
    if found == SCHEMA_REVISION:
        return
    if found is None and engine.dialect.name == "sqlite":
        _choose_wal(engine)
    # Loaded here, since stores are rarely out of date and it takes a third of a second; before the lock, since many
    # processes may open a new store at once, each waiting for the one that makes it, and find nothing left to do then.
    import alembic.command  # noqa: F401

    with engine.connect().execution_options(sqlite_begin="BEGIN IMMEDIATE") as connection, connection.begin():
        if _revision(connection, engine.url) != SCHEMA_REVISION:
            _migrate(connection, engine.url)


def _choose_wal(engine: sa.Engine) -> None:
    """Readers beside one writer; the file remembers it, so it is set once, outside of any transaction."""
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error as error:
        raise sa.exc.OperationalError("PRAGMA journal_mode = WAL", None, error) from error
    finally:
        connection.close()


def _revision(connection: sa.Connection, url: sa.URL) -> str | None:
    """The store's schema revision; None for a database that is still empty."""
    tables = sa.inspect(connection).get_table_names()
    if "alembic_version" in tables:
        revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return revision
    if tables and url.get_backend_name() == "sqlite":
        raise StoreError(f"{_shown(url)} is not a hwprune store: move it away or restore a backup")
    return None


def _migrate(connection: sa.Connection, url: sa.URL) -> None:
    import alembic.command
    import alembic.config
    import alembic.script

    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    revision = _revision(connection, url)
    known = {script.revision for script in alembic.script.ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreError(
            f"store {_shown(url)} was written by a newer hwprune (schema {revision}, known {SCHEMA_REVISION}): "
            "update hwprune, or name another store in HWPRUNE_STORE"
        )
    alembic.command.upgrade(config, "head")
