"""One SQLite file for one machine: journals, bus, views and leases of all services behind one writer."""

from cloche_shared.adapters.sqlite.bus import JournalBus
from cloche_shared.adapters.sqlite.file import SqliteFile
from cloche_shared.adapters.sqlite.letters import Letter

__all__ = ["JournalBus", "Letter", "SqliteFile"]
