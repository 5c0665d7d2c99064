"""What the SQLite file survives: kill -9, full disks, broken disks, and newer versions of itself."""

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.adapters.sqlite.schema import connect
from cloche_shared.errors import Conflict, Unavailable
from cloche_shared.ports.journal import Document, OutcomeUnknownError, Verdict
from cloche_shared.ports.views import Row

WRITER = """
import asyncio, pathlib, sys
from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.ports.journal import Document, Verdict

async def write(journal, name):
    seq = 1
    while True:
        pair = [Document(f"run/default/{name}/{seq:012d}", b"{}", "t", name), Document(f"answers/{name}/{seq}", b"{}")]
        verdicts = await journal.append_many(pair)
        if verdicts[0] is Verdict.INSERTED:
            sys.stdout.write(f"{name} {seq}\\n")
            sys.stdout.flush()
        seq += 1

async def main():
    file = await SqliteFile.open(pathlib.Path(sys.argv[1]))
    await asyncio.gather(*(write(file.journal("runner"), f"w{n}") for n in range(8)))

asyncio.run(main())
"""


def document(number: int, body: bytes = b"{}") -> Document:
    return Document(f"run/default/a/{number:012d}", body, "cloche.runs", "a")


def killed_writer(path: Path, acknowledged: int) -> list[str]:
    """Run the writer until so many writes were acknowledged, kill it, and return all acknowledgements."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(acknowledged)]
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n")]


async def test_what_was_acknowledged_reads_back_after_kill_9_and_calls_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "cloche.db"
    acknowledged: set[str] = set()
    for round_number in range(5):
        acknowledged.update(await asyncio.to_thread(killed_writer, path, 50 + 137 * round_number))
        file = await SqliteFile.open(path)
        journal = file.journal("runner")
        effects = await journal.read("run/", limit=1_000_000)
        answers = await journal.read("answers/", limit=1_000_000)
        await file.close()
        there = {f"{item.partition_key} {int(item.key[-12:])}" for item in effects}
        assert acknowledged <= there
        assert {item.key.removeprefix("answers/").replace("/", " ") for item in answers} == there
        assert all(f"{name} {seq}" in there for name, last in ends(there).items() for seq in range(1, last + 1))


def ends(there: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, seq in (line.split() for line in there):
        found[name] = max(found.get(name, 0), int(seq))
    return found


async def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    await file.journal("runner").append_many([document(1)])
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    await file.close()
    assert modes == {"cloche.db": 0o600, "cloche.db-wal": 0o600, "cloche.db-shm": 0o600}


async def test_a_file_from_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cloche.db"
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version=1000")
    newer.close()
    before = path.read_bytes()
    with pytest.raises(Conflict) as refused:
        await SqliteFile.open(path)
    assert refused.value.code == "data_too_new"
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "cloche.db"
    path.write_bytes(b"not a database, but long enough to look like a page of one" * 100)
    with pytest.raises(Unavailable) as refused:
        await SqliteFile.open(path)
    assert refused.value.code == "store_unavailable"


def small(path: Path) -> sqlite3.Connection:
    """Open a connection to a file that may not grow beyond 60 pages, as on a full disk."""
    connection = connect(path)
    connection.execute("PRAGMA max_page_count=60")
    return connection


async def test_a_full_disk_refuses_writes_and_keeps_the_rest_working(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db", services=["runner"], make=small)
    journal = file.journal("runner")
    await journal.append_many([document(1)])
    with pytest.raises(Unavailable) as refused:
        await journal.append_many([document(2), document(3, b"x" * 1_000_000)])
    assert refused.value.code == "disk_full"
    assert await journal.get(document(2).key) is None
    assert await journal.append_many([document(2)]) == [Verdict.INSERTED]
    assert len(await journal.read("run/")) == 2
    await file.close()


class BrokenAtCommit(sqlite3.Connection):
    """A connection whose disk fails at a commit, once."""

    broken = False

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.broken:
            self.broken = False
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return super().execute(sql, *parameters)  # type: ignore[arg-type]  # typeshed wants its own protocol


async def test_after_a_failed_sync_nothing_is_ever_taken_for_written(tmp_path: Path) -> None:
    opened: list[BrokenAtCommit] = []

    def breakable(path: Path) -> sqlite3.Connection:
        opened.append(sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=BrokenAtCommit))
        return opened[-1]

    file = await SqliteFile.open(tmp_path / "cloche.db", make=breakable)
    journal = file.journal("runner")
    await journal.append_many([document(1)])
    opened[0].broken = True
    with pytest.raises(OutcomeUnknownError):
        await journal.append_many([document(2)])
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            await journal.append_many([document(2)])
        assert refused.value.code == "store_failed"
    assert await journal.get(document(1).key) is not None
    await file.close()


async def test_after_closing_every_write_is_refused_and_none_is_lost(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    journal = file.journal("runner")
    writing = [asyncio.create_task(journal.append_many([document(number)])) for number in range(100)]
    await asyncio.sleep(0)
    await file.close()
    assert await asyncio.gather(*writing) == [[Verdict.INSERTED]] * 100
    with pytest.raises(Unavailable):
        await journal.append_many([document(1000)])
    file = await SqliteFile.open(tmp_path / "cloche.db")
    assert len(await file.journal("runner").read("run/")) == 100
    await file.close()


async def test_view_rows_and_offsets_are_there_after_a_clean_end(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    await file.views("runner").upsert([Row("runs", "default", "a", 1, "a", b"{}")])
    async with file.bus().subscribe("g", ["cloche.runs"]) as subscription:
        await subscription.commit({"runner": 7 << 16})
    await file.close()
    with sqlite3.connect(tmp_path / "cloche.db") as raw:
        assert raw.execute("SELECT consumers,source,next FROM offsets").fetchall() == [("g", "runner", 7 << 16)]
        assert raw.execute("SELECT key FROM runner_views").fetchall() == [("a",)]
    raw.close()


async def test_a_service_cannot_see_what_another_wrote(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    await file.journal("runner").append_many([document(1)])
    assert await file.journal("builder").get(document(1).key) is None
    assert await file.journal("builder").append_many([document(1)]) == [Verdict.INSERTED]
    await file.close()


async def test_one_document_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    file = await SqliteFile.open(tmp_path / "cloche.db")
    journal = file.journal("runner")
    calls = [journal.append_many([document(number)]) for number in range(20)]
    calls.insert(10, journal.append_many([Document("run/default/\ud800/000000000001", b"{}")]))
    said = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(said.pop(10), UnicodeEncodeError)
    assert said == [[Verdict.INSERTED]] * 20
    await file.close()
