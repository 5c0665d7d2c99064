"""One SQLite file for one machine: journals, bus, views and leases of all services behind one writer."""

from cloche_shared.adapters.sqlite.bus import JournalBus
from cloche_shared.adapters.sqlite.file import SqliteFile

__all__ = ["JournalBus", "SqliteFile"]
