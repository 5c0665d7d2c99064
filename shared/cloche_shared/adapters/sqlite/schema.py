"""The tables of the file, and how it is opened."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from cloche_shared.errors import Conflict, Unavailable

SCHEMA_VERSION = 1
CHECKPOINT_PAGES = 8000
"""Pages of the log (32 MB) until a commit moves them into the file. All who wait for that commit wait
for this too; a registration writes one or two pages, so it meets fewer than one in a hundred. To read a
whole log again after a crash takes some 30 ms."""
_NO_ROOM_TO_SHARE = {sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN}
"""What SQLite says when the file beside the log, which it shares with other connections, cannot be made or grow:
nothing of the data was touched then."""
Connect = Callable[[Path], sqlite3.Connection]

_SERVICE_TABLES = """
CREATE TABLE IF NOT EXISTS {0}_journal (
    pos INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, partition_key TEXT NOT NULL,
    body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS {0}_journal_topic ON {0}_journal (topic, pos);
CREATE TABLE IF NOT EXISTS {0}_marks (pos INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS {0}_views (
    view TEXT NOT NULL, project TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, sort TEXT NOT NULL,
    facet TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (view, project, key));
CREATE INDEX IF NOT EXISTS {0}_views_sort ON {0}_views (view, project, sort, key);
CREATE INDEX IF NOT EXISTS {0}_views_facet ON {0}_views (view, project, facet, sort, key);
CREATE TABLE IF NOT EXISTS {0}_leases (
    holder TEXT PRIMARY KEY, counter INTEGER NOT NULL, ttl REAL NOT NULL, address TEXT NOT NULL,
    grant_until REAL NOT NULL);
"""
_SHARED_TABLES = """
CREATE TABLE IF NOT EXISTS floors (service TEXT PRIMARY KEY, pos INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS offsets (
    consumers TEXT NOT NULL, source TEXT NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (consumers, source)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (id INTEGER PRIMARY KEY AUTOINCREMENT, consumers TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS inbox (pos INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS resent (pos INTEGER PRIMARY KEY AUTOINCREMENT, consumers TEXT NOT NULL, body BLOB NOT NULL);
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that leaves transactions to us."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512, timeout=10.0)


def open_writer(path: Path, services: Sequence[str], make: Connect) -> sqlite3.Connection:
    """Create or check the file and return the connection that writes.

    Raises `Conflict` (`data_too_new`) when a newer version wrote it, `Unavailable` (`disk_full`,
    `store_unavailable`) when it cannot be opened.
    """
    if any(not name.isidentifier() for name in services):
        raise ValueError(services)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = make(path)
        try:
            _prepare(connection, path, services)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise unavailable(error) from error
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, services: Sequence[str]) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise Conflict(
            "data_too_new",
            f"The data in {path.parent} was written by a newer version of Cloche.",
            why=f"Its schema has version {version}; this program knows versions up to {SCHEMA_VERSION}.",
            todo="Install that version again, or choose another data folder.",
        )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    tables = "".join(_SERVICE_TABLES.format(name) for name in services)
    connection.executescript(
        f"BEGIN IMMEDIATE;{_SHARED_TABLES}{tables}PRAGMA user_version={SCHEMA_VERSION:d};COMMIT;",
    )


def open_reader(path: Path, make: Connect) -> sqlite3.Connection:
    """Return a connection that only reads."""
    connection = make(path)
    connection.execute("PRAGMA query_only=ON")
    return connection


def unavailable(error: Exception) -> Unavailable:
    """Say in our words why the file could not be written or read."""
    if is_full(error):
        return Unavailable(
            "disk_full",
            "There is no room left for Cloche's records.",
            why=str(error),
            todo="Free some space on the disk that holds the data folder; nothing needs to be restarted.",
        )
    return Unavailable("store_unavailable", "Cloche's records cannot be reached.", why=str(error))


def is_full(error: Exception) -> bool:
    """Tell whether the disk (or a quota) is exhausted."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code in _NO_ROOM_TO_SHARE


def is_broken(error: Exception) -> bool:
    """Tell whether the disk failed, after which nothing that it says about writes can be believed."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT} and code not in _NO_ROOM_TO_SHARE
