"""Inserts: what several callers write at the same time goes to the server in one command.

One command of many documents costs a server a fraction of as many commands. Nobody waits for others to
come: a caller goes at once while few commands are on their way, and with those who wait otherwise.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from cloche_shared.adapters.mongo_documents import JOURNAL
from cloche_shared.adapters.mongo_errors import DUPLICATE, of_write, unavailable
from cloche_shared.errors import ClocheError
from cloche_shared.ports.journal import OutcomeUnknownError

AT_ONCE: Final = 3
"""Commands that are on their way at a time."""
MOST_ROWS: Final = 100
MOST_BYTES: Final = 4 * 1024 * 1024
"""What one command holds, unless one caller's documents are more."""

T = TypeVar("T")
Rows: TypeAlias = list[dict[str, Any]]


class Store(Protocol):
    """The store that holds the journal."""

    @property
    def replicated(self) -> bool:
        """Whether several servers hold the data."""

    def collection(self, name: str) -> Any:  # noqa: ANN401 - motor has no types
        """Return a collection whose 'yes' is durable."""

    async def write(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do what may have been done although no answer came."""


@dataclass(frozen=True, slots=True)
class _Stop:
    """Where an ordered insert ended: the index of the row, and why unless its key is held."""

    index: int
    error: Exception | None = None

    def outcome(self, begin: int) -> Exception | int:
        """Return what the caller hears whose rows begin there; those before the stop are written."""
        if isinstance(self.error, ClocheError) and begin < self.index:
            return _partly()
        return self.error or self.index - begin


@dataclass(slots=True, eq=False)
class _Call:
    rows: Rows
    size: int
    answer: asyncio.Future[int | None]
    is_taken: bool = False


class Inserts:
    """The way of new documents into a journal. `patience_s`: seconds after which a caller is told that it failed."""

    def __init__(self, store: Store, patience_s: float) -> None:
        self._store = store
        self._patience_s = patience_s
        self._waiting: deque[_Call] = deque()
        self._running = 0
        self._commands: set[asyncio.Task[None]] = set()

    async def insert(self, rows: Rows) -> int | None:
        """Insert in order; return the index of the first whose key is held, None when all were inserted.

        Raises `Unavailable` when none was written, `OutcomeUnknownError`.
        """
        size = sum(len(row["body"]) for row in rows)
        call = _Call(rows, size, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._running < AT_ONCE:
            self._begin()
        try:
            async with asyncio.timeout(self._patience_s):
                return await call.answer
        except TimeoutError as error:
            if not call.is_taken:
                raise unavailable(error) from error
            raise OutcomeUnknownError("the document store did not answer in time") from error

    def _begin(self) -> None:
        self._running += 1
        command = asyncio.create_task(self._work(), name="mongo-inserts")
        self._commands.add(command)
        command.add_done_callback(self._commands.discard)

    async def settle(self) -> None:
        """Wait for the commands that are on their way."""
        await asyncio.gather(*self._commands, return_exceptions=True)

    async def _work(self) -> None:
        """Send commands until nobody waits."""
        try:
            while calls := self._taken():
                await self._command(calls)
        finally:
            self._running -= 1

    async def _command(self, calls: list[_Call]) -> None:
        rows = [row for call in calls for row in call.rows]
        try:
            stop = await self._store.write(lambda: self._together(rows))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to those who wait
            for call in calls:
                _tell(call, _own(error))
        else:
            self._answer(calls, stop)

    def _taken(self) -> list[_Call]:
        """Return who goes next, in the order in which they came; who gave up is passed over."""
        taken: list[_Call] = []
        count = size = 0
        while self._waiting:
            call = self._waiting[0]
            if taken and (count + len(call.rows) > MOST_ROWS or size + call.size > MOST_BYTES):
                break
            self._waiting.popleft()
            if call.answer.done():
                continue
            call.is_taken = True
            taken.append(call)
            count, size = count + len(call.rows), size + call.size
        return taken

    def _answer(self, calls: list[_Call], stop: _Stop | None) -> None:
        """Tell each caller what became of its rows; those behind the stop were not looked at, and go again."""
        again: list[_Call] = []
        begin = 0
        for call in calls:
            end = begin + len(call.rows)
            if stop is None or end <= stop.index:
                _tell(call, None)
            elif begin <= stop.index:
                _tell(call, stop.outcome(begin))
            else:
                call.is_taken = False
                again.append(call)
            begin = end
        self._waiting.extendleft(reversed(again))

    async def _together(self, rows: Rows) -> _Stop | None:
        """Insert in order; return where it ended, None when all were inserted.

        On a replica set one document goes the way of many: only there is told whether the document that
        holds the key is durable.
        """
        documents = self._store.collection(JOURNAL)
        try:
            if len(rows) == 1 and not self._store.replicated:
                await documents.insert_one(rows[0])
            else:
                await documents.insert_many(rows, ordered=True)
        except DuplicateKeyError:
            return _Stop(0)
        except BulkWriteError as error:
            return _stop_of(error)
        return None


def _stop_of(error: BulkWriteError) -> _Stop:
    """Return where an insert of many ended. Raises `OutcomeUnknownError` when that is not told, or not durable."""
    details = error.details or {}
    failed = details.get("writeErrors") or []
    if not failed or details.get("writeConcernErrors"):
        raise _partly() from error
    index, code = int(failed[0]["index"]), failed[0].get("code")
    if code == DUPLICATE:
        return _Stop(index)
    meant = of_write(OperationFailure(str(failed[0].get("errmsg", "")), code))
    return _Stop(index, meant if isinstance(meant, ClocheError) else _partly())


def _partly() -> OutcomeUnknownError:
    return OutcomeUnknownError("the document store wrote only a part")


def _own(error: Exception) -> Exception:
    """Return an error like it: one that several callers raise would gather the traces of all."""
    if isinstance(error, ClocheError):
        told = {"why": error.why, "todo": error.todo}
        own: Exception = type(error)(error.code, error.what, **told, violations=error.violations, extra=error.extra)
    elif isinstance(error, OutcomeUnknownError):
        own = OutcomeUnknownError(*error.args)
    else:
        own = RuntimeError(f"the insert failed: {type(error).__name__}")
    own.__cause__ = error.__cause__ or error
    return own


def _tell(call: _Call, outcome: Exception | int | None) -> None:
    if call.answer.done():
        return
    if isinstance(outcome, Exception):
        call.answer.set_exception(outcome)
    else:
        call.answer.set_result(outcome)
