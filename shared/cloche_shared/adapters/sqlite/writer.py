"""The one thread that writes: group commit for everything that waits.

What one turn of the event loop asks for is handed over at its end, and whatever is queued when a
commit ends goes into the next transaction, so one sync of the disk serves all services at once.
Documents and dead letters are durable when their future resolves. View rows, leases, marks and
offsets can be had again, so they never cost a sync: in a transaction with documents they ride along,
and without one the transaction runs with `synchronous=NORMAL`, under which SQLite in WAL mode writes
but does not sync (the next durable commit syncs them too, because the log is one file).

Positions are counted for all journals together, so that they give one order of commits.
"""

import asyncio
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from cloche_shared.adapters.sqlite.schema import is_broken, unavailable
from cloche_shared.errors import Unavailable
from cloche_shared.ports.journal import Document, OutcomeUnknownError, Verdict

T = TypeVar("T")
Placed = list[tuple[int, Document]]
"""Documents with the positions that they got in their service's journal."""
Listener = Callable[[str, Placed], None]

ROWS = "{rows}"
LAZY_SECONDS = 1.0
_MOST = 4096
_STEP = 16
_WIDEST = 128


@dataclass(slots=True)
class Append:
    """One call of `append_many`."""

    service: str
    documents: Sequence[Document]
    future: asyncio.Future[list[Verdict]]
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(slots=True)
class Write:
    """One statement with its rows. `then` runs on the loop after the commit, before the future resolves.

    Where the SQL holds `ROWS`, the placeholders of as many rows as fit go there.
    """

    sql: str
    rows: Sequence[Sequence[object]]
    future: asyncio.Future[list[Verdict]] | None = None
    durable: bool = False
    then: Callable[[], None] | None = None


class _Stop:
    """Ends the thread."""


Operation = Append | Write


class Writer:
    """Owns the writing connection and its thread; called from one event loop."""

    def __init__(self, connection: sqlite3.Connection, services: Sequence[str]) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[list[Operation] | _Stop] = queue.SimpleQueue()
        self._asked: list[Operation] = []
        self._lock = threading.Lock()
        self._lazy: dict[tuple[str, ...], Write] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._durable = True
        self._failed = False
        self._closed = False
        self._ended = asyncio.Event()
        self._heads = {name: _head(connection, name) for name in services}
        self._last = max(self._heads.values(), default=0)
        self._listeners: list[Listener] = []
        self._thread = threading.Thread(target=self._work, name="sqlite-writer", daemon=True)
        self._thread.start()

    def heads(self) -> dict[str, int]:
        """Return the last position of each journal when the file was opened."""
        return dict(self._heads)

    def listen(self, listener: Listener) -> None:
        """Call `listener` on the loop with what each commit added to a journal."""
        self._listeners.append(listener)

    async def append(self, service: str, documents: Sequence[Document]) -> list[Verdict]:
        """Insert documents in order; durable when it returns."""
        future: asyncio.Future[list[Verdict]] = self._loop.create_future()
        self._put(Append(service, documents, future))
        return await future

    async def write(
        self,
        sql: str,
        rows: Sequence[Sequence[object]],
        *,
        durable: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Run a statement for each row; when it returns, readers see it."""
        future: asyncio.Future[list[Verdict]] = self._loop.create_future()
        self._put(Write(sql, rows, future, durable, then))
        await future

    def write_lazily(self, name: tuple[str, ...], sql: str, row: Sequence[object]) -> None:
        """Write a row with the next transaction, or after a second; a later row of that name replaces it."""
        with self._lock:
            self._lazy[name] = Write(sql, [row])
        if self._flush is None and not self._closed:
            self._flush = self._loop.call_later(LAZY_SECONDS, self._flush_now)

    async def close(self) -> None:
        """Write what is queued, and end the thread."""
        if self._closed:
            return
        self._closed = True
        if self._flush is not None:
            self._flush.cancel()
        self._hand_over()
        self._queue.put(_Stop())
        await self._ended.wait()
        self._thread.join()

    def _put(self, operation: Operation) -> None:
        if self._closed or self._failed:
            raise _store_failed() if self._failed else _closed()
        self._asked.append(operation)
        if len(self._asked) == 1:
            # Not at once: the thread would take the interpreter for one document after the other,
            # while the requests that came with this one are about to ask for the same.
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        if self._asked:
            asked, self._asked = self._asked, []
            self._queue.put(asked)

    def _flush_now(self) -> None:
        self._flush = None
        if not self._closed:
            self._queue.put([])

    # Everything below runs in the thread, but `_settle`.

    def _work(self) -> None:
        while True:
            batch: list[Operation] = []
            going_on = self._collect(batch)
            with self._lock:
                lazy, self._lazy = self._lazy, {}
            if batch or lazy:
                self._run(batch, lazy)
            if not going_on:
                self._loop.call_soon_threadsafe(self._ended.set)
                return

    def _collect(self, batch: list[Operation]) -> bool:
        """Take all that waits (at least one thing). Return false when the end was asked for."""
        item = self._queue.get()
        while True:
            if isinstance(item, _Stop):
                return False
            batch += item
            if len(batch) >= _MOST:
                return True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return True

    def _run(self, batch: list[Operation], lazy: dict[tuple[str, ...], Write]) -> None:
        if self._failed:
            self._tell(batch, _store_failed(), {})
            return
        try:
            placed = self._transact(batch, list(lazy.values()))
        except Exception as error:  # noqa: BLE001 - one bad row must neither end the thread nor fail its neighbours
            self._rollback()
            with self._lock:
                self._lazy = lazy | self._lazy
            self._after_error(batch, error)
        else:
            self._tell(batch, None, placed)

    def _after_error(self, batch: list[Operation], error: Exception) -> None:
        if isinstance(error, sqlite3.OperationalError) or is_broken(error):
            self._tell(batch, self._judge(error), {})
        elif len(batch) <= 1:
            self._tell(batch, error, {})
        else:
            for operation in batch:
                self._run([operation], {})

    def _judge(self, error: Exception) -> Exception:
        if is_broken(error):
            self._failed = True
            return OutcomeUnknownError(str(error))
        return unavailable(error)

    def _rollback(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._failed = True

    def _transact(self, batch: list[Operation], lazy: list[Write]) -> dict[str, Placed]:
        appends: defaultdict[str, list[Append]] = defaultdict(list)
        writes: list[Write] = []
        for operation in batch:
            if isinstance(operation, Append):
                appends[operation.service].append(operation)
            else:
                writes.append(operation)
        self._sync_mode(durable=bool(appends) or any(write.durable for write in writes))
        self._connection.execute("BEGIN IMMEDIATE")
        placed = self._insert(appends)
        for write in (*writes, *lazy):
            self._write(write)
        self._connection.execute("COMMIT")
        for documents in placed.values():
            self._last += len(documents)
        return placed

    def _write(self, write: Write) -> None:
        if ROWS not in write.sql:
            self._connection.executemany(write.sql, write.rows)
            return
        group = f"({','.join('?' * len(write.rows[0]))})"
        for rows in _portions(write.rows):
            sql = write.sql.replace(ROWS, ",".join([group] * len(rows)))
            self._connection.execute(sql, list(chain.from_iterable(rows)))

    def _sync_mode(self, *, durable: bool) -> None:
        if durable != self._durable:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _insert(self, appends: Mapping[str, list[Append]]) -> dict[str, Placed]:
        """Insert all calls' documents in few statements; only when a key is held, one by one."""
        placed: dict[str, Placed] = {}
        free = self._last + 1
        for service, calls in appends.items():
            documents = [document for call in calls for document in call.documents]
            placed[service] = list(enumerate(documents, free))
            free += len(documents)
            if not self._insert_all(service, placed[service]):
                self._connection.execute("ROLLBACK")
                self._connection.execute("BEGIN IMMEDIATE")
                return self._insert_singly(appends)
        for calls in appends.values():
            for call in calls:
                call.verdicts = [Verdict.INSERTED] * len(call.documents)
        return placed

    def _insert_all(self, service: str, placed: Placed) -> bool:
        for rows in _portions(placed):
            values = [
                value for pos, item in rows for value in (pos, item.key, item.topic, item.partition_key, item.body)
            ]
            if self._connection.execute(_insert_sql(service, len(rows)), values).rowcount < len(rows):
                return False
        return True

    def _insert_singly(self, appends: Mapping[str, list[Append]]) -> dict[str, Placed]:
        placed: dict[str, Placed] = {service: [] for service in appends}
        free = self._last + 1
        for service, calls in appends.items():
            sql = _insert_sql(service, 1)
            for call in calls:
                call.verdicts = [Verdict.SKIPPED] * len(call.documents)
                for index, item in enumerate(call.documents):
                    row = (free, item.key, item.topic, item.partition_key, item.body)
                    if self._connection.execute(sql, row).rowcount == 0:
                        call.verdicts[index] = Verdict.DUPLICATE
                        break
                    call.verdicts[index] = Verdict.INSERTED
                    placed[service].append((free, item))
                    free += 1
        return placed

    def _tell(self, batch: list[Operation], error: Exception | None, placed: dict[str, Placed]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, batch, error, placed)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _settle(self, batch: list[Operation], error: Exception | None, placed: dict[str, Placed]) -> None:
        for operation in batch:
            if isinstance(operation, Write) and error is None and operation.then is not None:
                operation.then()
            future = operation.future
            if future is None or future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(operation.verdicts if isinstance(operation, Append) else [])
        for service, documents in placed.items():
            for listener in self._listeners:
                listener(service, documents)


def _portions(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the rows of few wide statements, of which there are few sizes.

    `executemany` lets go of the interpreter lock at each row, and under a busy event loop each time costs
    a whole switch interval to get it back.
    """
    start = 0
    while start < len(rows):
        rest = len(rows) - start
        count = min(_WIDEST, rest - rest % _STEP) if rest >= _STEP else rest
        yield rows[start : start + count]
        start += count


def _insert_sql(service: str, count: int) -> str:
    values = ",".join(["(?,?,?,?,?)"] * count)
    return (
        f"INSERT INTO {service}_journal(pos,key,topic,partition_key,body) VALUES {values}"  # noqa: S608 - our own names
        " ON CONFLICT(key) DO NOTHING"
    )


def _head(connection: sqlite3.Connection, service: str) -> int:
    row = connection.execute(f"SELECT max(pos) FROM {service}_journal").fetchone()  # noqa: S608 - our own name
    return int(row[0] or 0)


def _store_failed() -> Unavailable:
    return Unavailable(
        "store_failed",
        "Cloche stopped accepting changes because the disk failed while writing.",
        why="After a failed sync nobody can know what is on the disk.",
        todo="Check the disk, then start Cloche again.",
    )


def _closed() -> Unavailable:
    return Unavailable("store_unavailable", "Cloche is stopping and accepts no more changes.")
