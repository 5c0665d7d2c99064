"""Journal, views and leases on MongoDB or a compatible server, through motor.

Only one thing is trusted: that of two inserts under one `_id` exactly one succeeds. Keys are read by
equality on the hot path, which is quick on every server; ranges serve lists and repairs
(docs/explanation/journal.md). motor is imported in this file only, and only through calls that
`pymongo.AsyncMongoClient` offers under the same names.
"""

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import motor.motor_asyncio
from pymongo import UpdateOne, WriteConcern
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern

from cloche_shared.adapters.mongo_documents import (
    INDEXES,
    JOURNAL,
    LEASES,
    VIEWS,
    Change,
    Found,
    Index,
    Query,
    by_key,
    by_keys,
    change_to,
    document_of,
    is_stream,
    lease_fields,
    lease_of,
    of_leases,
    of_page,
    of_prefix,
    of_unsent,
    place,
    reached,
    row_of,
    written,
)
from cloche_shared.adapters.mongo_errors import (
    DUPLICATE,
    MOST_BYTES,
    bad_settings,
    lasting,
    of_write,
    too_large,
    unavailable,
    unsuitable,
)
from cloche_shared.adapters.mongo_inserts import Inserts
from cloche_shared.adapters.waiters import Waiters
from cloche_shared.backends import MongoSettings
from cloche_shared.errors import ClocheError, Unavailable
from cloche_shared.journal.commit import SEQUENCE_DIGITS
from cloche_shared.ports.journal import Document, Lease, Verdict
from cloche_shared.ports.views import Row

MARGIN_S: Final = 0.5
"""Beyond the client's own deadline, before an operation is given up that waits for a thread."""
PORTION: Final = 64
"""Keys that are marked, or rows that are written, within one deadline: a slow server would not get through more."""
AT_ONCE: Final = 16
"""Keys that are read at a time, and rows that are written."""
MARKS_AT_ONCE: Final = 4
"""Keys that are marked at a time where each is a command of its own: nobody waits for marks."""
MOST_LEASES: Final = 10_000
OLDEST_MONGODB: Final = 5
POLL_S: Final = (0.005, 0.01, 0.02, 0.05, 0.05, 0.05, 0.05, 0.1, 0.1, 0.1, 0.25)
_NOT_IMPLEMENTED: Final = frozenset((59, 238))

T = TypeVar("T")


class MongoStore:
    """One service's database: `<database>_<service>`.

    `client` makes the connection; pymongo's own asynchronous client serves as well.
    """

    def __init__(
        self,
        settings: MongoSettings,
        service: str,
        *,
        client: Callable[..., object] = motor.motor_asyncio.AsyncIOMotorClient,
    ) -> None:
        self._settings = settings
        self._name = f"{settings.database}_{service}"
        self._connect = client
        self._client: Any = None
        self._collections: dict[str, Any] = {}
        self._replicated = bool(settings.replica_set)
        self.scans = False
        self.journal = MongoJournal(self, settings.timeout_s + 2 * MARGIN_S)
        self.views = MongoViews(self)
        self.leases = MongoLeases(self)

    @property
    def replicated(self) -> bool:
        """Whether several servers hold the data, so that one server's word is not enough."""
        return self._replicated

    @property
    def _database(self) -> Any:  # noqa: ANN401 - motor has no types
        if self._client is None:
            try:
                self._client = self._connect(**_options(self._settings))
            except (ConfigurationError, ValueError, OSError) as error:
                raise bad_settings(error) from None
        return self._client[self._name]

    def collection(self, name: str) -> Any:  # noqa: ANN401 - motor has no types
        """Return a collection whose 'yes' is durable, and which shows only what is."""
        found = self._collections.get(name)
        if found is None:
            concern = WriteConcern("majority", j=True) if self._replicated else WriteConcern(1, j=True)
            reads = ReadConcern("majority" if self._replicated else None)
            found = self._database.get_collection(name, write_concern=concern, read_concern=reads)
            self._collections[name] = found
        return found

    async def read(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do what changes nothing. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(self._settings.timeout_s + MARGIN_S):
                return await action()
        except (PyMongoError, TimeoutError) as error:
            raise unavailable(error) from error

    async def write(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do what may have been done although no answer came. Raises `OutcomeUnknownError`, `Unavailable`."""
        try:
            async with asyncio.timeout(self._settings.timeout_s + MARGIN_S):
                return await action()
        except (PyMongoError, TimeoutError) as error:
            raise of_write(error) from error

    async def one(self, query: Query) -> Found | None:
        """Return what a query by key finds."""
        found: Found | None = await self.read(lambda: self.collection(query.collection).find_one(query.filter))
        return found

    async def find(self, query: Query) -> list[Found]:
        """Return what a query finds, in one answer: a cursor left open would hold a server's connection."""

        async def found() -> list[Found]:
            cursor = self.collection(query.collection).find(query.filter).sort(query.by, query.direction)
            held: list[Found] = await cursor.limit(query.limit).batch_size(query.limit + 1).to_list(query.limit)
            return held

        return await self.read(found)

    # --- start and end

    async def probe(self) -> str:
        """Make the indexes; return which server it is and what it guarantees.

        Raises `Unavailable` while it does not answer, `Invalid` (`store_auth`, `store_unsuitable`) for
        what waiting does not mend.
        """
        try:
            said = await self._look()
            await self._check_unique()
            indexed = [await self._make(index) for index in INDEXES].count(True)
        except ClocheError as error:
            raise lasting(error) from error.__cause__
        copies = "majority of a replica set" if self._replicated else "one server, journaled"
        ranges = "ranges are scanned" if self.scans else "ranges by index"
        return f"{said} (unique keys are arbitrated; {ranges}; {copies}; {indexed} indexes)"

    async def _look(self) -> str:
        """Learn which server it is; return its name."""
        info: Found = await self.read(lambda: self._database.command("buildInfo"))
        hello: Found = await self.read(lambda: self._database.command("hello"))
        self.scans = "ferretdbVersion" in info
        self._replicated = bool(self._settings.replica_set or "setName" in hello or hello.get("msg") == "isdbgrid")
        self._collections.clear()
        product = _product(info)
        if product.startswith("MongoDB") and int(info["versionArray"][0]) < OLDEST_MONGODB:
            raise unsuitable(f"It is {product}.")
        return product

    async def _check_unique(self) -> None:
        """See that a second insert under one key is refused: everything rests on that."""
        probes = self.collection("probe")
        key = {"_id": f"probe-{uuid.uuid4()}"}
        await self.write(lambda: probes.insert_one(dict(key)))
        try:
            await self.write(lambda: probes.insert_one(dict(key)))
        except Unavailable as error:
            if not isinstance(error.__cause__, DuplicateKeyError):
                raise
        else:
            raise unsuitable("It takes two documents under one key.")
        finally:
            await self.write(lambda: probes.delete_one(key))

    async def _make(self, index: Index) -> bool:
        """Make an index where it is not there; one that a server cannot make costs time, nothing else."""
        options: dict[str, Any] = {"partialFilterExpression": dict(index.only)} if index.only else {}
        try:
            await self.write(
                lambda: self.collection(index.collection).create_index(list(index.fields), **options),
            )
        except Unavailable as error:
            if getattr(error.__cause__, "code", None) in _NOT_IMPLEMENTED:
                return False
            raise
        return True

    async def check(self) -> str | None:
        """Return what is wrong with the server now, None when it is well."""
        try:
            await self.leases.get("nobody")
        except ClocheError as error:
            return f"{error.code}: {error.why or error.what}"
        return None

    async def drop(self) -> None:
        """Remove the service's database with all that is in it."""
        await self.write(lambda: self._database.client.drop_database(self._name))

    async def close(self) -> None:
        """Close every connection."""
        await self.journal.settle()
        client, self._client = self._client, None
        self._collections.clear()
        if client is not None:
            closing = client.close()
            if inspect.isawaitable(closing):
                await closing


def _product(info: Found) -> str:
    """Return the product's name and version from `buildInfo`."""
    speaks = str(info.get("version", "?"))
    section = info.get("ferretdb")
    own = info.get("ferretdbVersion") or (section.get("version") if isinstance(section, dict) else "")
    if not own and section is None:
        return f"MongoDB {speaks}"
    told = str(own) if own and own != "unknown" else f"{2 if section else 1}.x"
    return f"FerretDB {told}, speaking MongoDB {speaks}"


def _options(settings: MongoSettings) -> dict[str, Any]:
    deadline_ms = round(settings.timeout_s * 1000)
    options: dict[str, Any] = {
        "host": settings.hosts.split(","),
        "timeoutMS": deadline_ms,  # of an operation with all its steps
        "serverSelectionTimeoutMS": deadline_ms,
        "connectTimeoutMS": deadline_ms,
        "retryWrites": False,  # whether a write was done is settled by writing the same document again
        "appname": "cloche",
        "maxPoolSize": 64,
    }
    if settings.username:
        secret = settings.password.get_secret_value()
        options |= {"username": settings.username, "password": secret, "authSource": settings.auth_source}
    if settings.auth_mechanism:
        options["authMechanism"] = settings.auth_mechanism
    if settings.replica_set:
        options["replicaSet"] = settings.replica_set
    if settings.tls:
        options |= {"tls": True} | ({"tlsCAFile": settings.ca_file} if settings.ca_file else {})
    return options


async def _each(items: Sequence[T], action: Callable[[T], Awaitable[None]], at_once: int = AT_ONCE) -> None:
    """Do something with each, a few at a time; the first error ends it."""
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            await action(item)

    tasks = [asyncio.ensure_future(work()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


class MongoJournal:
    """One service's documents: `_id` is the key, and the only arbiter. `unsent` marks what the bus has not got."""

    atomic = False

    def __init__(self, store: MongoStore, patience_s: float) -> None:
        self._store = store
        self._inserts = Inserts(store, patience_s)

    @property
    def _documents(self) -> Any:  # noqa: ANN401 - motor has no types
        return self._store.collection(JOURNAL)

    async def append_many(self, documents: Sequence[Document]) -> list[Verdict]:
        if not documents:
            return []
        if any(len(document.body) > MOST_BYTES for document in documents):
            raise too_large()
        held = await self._inserts.insert([written(document) for document in documents])
        if held is None:
            return [Verdict.INSERTED] * len(documents)
        behind = len(documents) - held - 1
        return [Verdict.INSERTED] * held + [Verdict.DUPLICATE] + [Verdict.SKIPPED] * behind

    async def settle(self) -> None:
        """Wait for what is being inserted, also for callers that do not wait any more."""
        await self._inserts.settle()

    async def get(self, key: str) -> Document | None:
        found = await self._store.one(by_key(JOURNAL, key))
        return None if found is None else document_of(found)

    async def read(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Document]:
        behind = reached(prefix, after) if self._store.scans and is_stream(prefix) else None
        if behind is not None:
            return await self._walk(prefix, behind, limit)
        found = await self._store.find(of_prefix(prefix, after, limit, scans=self._store.scans))
        return [document_of(one) for one in found]

    async def _walk(self, prefix: str, behind: int, limit: int) -> list[Document]:
        """Read a stream key by key, behind a number, up to the first that is missing."""
        found: list[Document] = []
        while len(found) < limit:
            count = min(AT_ONCE, limit - len(found))
            keys = [f"{prefix}{behind + step:0{SEQUENCE_DIGITS}d}" for step in range(1, count + 1)]
            batch = await asyncio.gather(*(self.get(key) for key in keys))
            # what stands behind a missing one was written since: its predecessor was, too, and is read next time
            end = batch.index(None) if None in batch else count
            found += [document for document in batch[:end] if document is not None]
            behind += end
            if end < count:
                break
        return found

    async def unsent(self, limit: int = 1000) -> list[Document]:
        return [document_of(one) for one in await self._store.find(of_unsent(limit))]

    async def mark_sent(self, keys: Sequence[str]) -> None:
        mark = self._mark_each if self._store.scans else self._mark_bulk
        for first in range(0, len(keys), PORTION):
            await self._store.write(partial(mark, keys[first : first + PORTION]))

    async def _mark_bulk(self, keys: Sequence[str]) -> None:
        marks = [UpdateOne({"_id": {"$eq": key}}, {"$unset": {"unsent": ""}}) for key in keys]
        await self._documents.bulk_write(marks, ordered=False)

    async def _mark_each(self, keys: Sequence[str]) -> None:
        """Mark one by one: FerretDB keeps a connection for each update of a command, until it has none left."""

        async def mark(key: str) -> None:
            await self._documents.update_one({"_id": {"$eq": key}}, {"$unset": {"unsent": ""}})

        await _each(keys, mark, MARKS_AT_ONCE)


class MongoViews:
    """One service's lists. A row's `order` is its sort text and its key, so that a page is one range of an index.

    Rows are written by one projector per partition and derived again by a sweep. Where a server's
    conditional update is not atomic (FerretDB), two that write one row at the same instant may leave the
    older one, until the next fact or sweep: nothing is decided on rows.
    """

    def __init__(self, store: MongoStore) -> None:
        self._store = store
        self._waiters = Waiters()

    @property
    def _rows(self) -> Any:  # noqa: ANN401 - motor has no types
        return self._store.collection(VIEWS)

    async def upsert(self, rows: Sequence[Row]) -> None:
        newest = {place(row.view, row.project, row.key): row for row in sorted(rows, key=lambda row: row.seq)}
        changes = [change_to(row) for row in newest.values()]
        if changes:
            for first in range(0, len(changes), PORTION):
                await self._write(changes[first : first + PORTION])
            self._waiters.reached(rows)

    async def _write(self, changes: list[Change]) -> None:
        """Write rows. Refused is what a newer row holds, and what another inserted first: a second try tells."""
        write = self._write_each if self._store.scans else self._write_bulk
        refused = await self._store.write(lambda: write(changes))
        if refused:
            await self._store.write(lambda: write(refused))

    async def _write_bulk(self, changes: list[Change]) -> list[Change]:
        """Write at once; return those whose key is held."""
        try:
            await self._rows.bulk_write([UpdateOne(*change, upsert=True) for change in changes], ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            failed = details.get("writeErrors") or []
            if details.get("writeConcernErrors") or any(one.get("code") != DUPLICATE for one in failed):
                raise
            return [changes[one["index"]] for one in failed]
        return []

    async def _write_each(self, changes: list[Change]) -> list[Change]:
        """Write one by one: FerretDB's answer to several, one of them a duplicate, cannot be read by the driver."""
        refused: list[Change] = []

        async def write(change: Change) -> None:
            try:
                await self._rows.update_one(*change, upsert=True)
            except DuplicateKeyError:
                refused.append(change)

        await _each(changes, write)
        return refused

    async def get(self, view: str, project: str, key: str) -> Row | None:
        found = await self._store.one(by_key(VIEWS, place(view, project, key)))
        return None if found is None else row_of(found)

    async def some(self, view: str, project: str, keys: Collection[str]) -> dict[str, Row]:
        found: dict[str, Row] = {}

        async def add(key: str) -> None:
            row = await self.get(view, project, key)
            found.update({} if row is None else {key: row})

        if self._store.scans:
            await _each(list(keys), add)
        elif keys:
            rows = await self._store.find(by_keys(VIEWS, [place(view, project, key) for key in keys]))
            found.update({row.key: row for row in map(row_of, rows)})
        return found

    async def page(
        self,
        view: str,
        project: str,
        *,
        facet: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int = 50,
        descending: bool = False,
    ) -> list[Row]:
        found = await self._store.find(of_page(view, project, facet, after, limit, descending=descending))
        return [row_of(one) for one in found]

    async def delete(self, view: str, project: str, key: str) -> None:
        await self._store.write(lambda: self._rows.delete_one(by_key(VIEWS, place(view, project, key)).filter))
        self._waiters.gone(view, project, key)

    async def changed(self, view: str, project: str, key: str, seq: int) -> None:
        """Wait for a row; who writes it may be another process, so it is looked at again and again."""
        waiting, seen, looks = self._waiters.wait(view, project, key, seq), False, 0
        try:
            while not waiting.done():
                row = await self.get(view, project, key)
                if (row is None and seen) or (row is not None and row.seq >= seq):
                    return
                seen |= row is not None
                await asyncio.wait([waiting], timeout=POLL_S[min(looks, len(POLL_S) - 1)])
                looks += 1
        finally:
            self._waiters.leave(view, project, key, waiting)


class MongoLeases:
    """One service's leases."""

    def __init__(self, store: MongoStore) -> None:
        self._store = store

    async def put(self, lease: Lease) -> None:
        key = by_key(LEASES, lease.holder).filter
        leases = self._store.collection(LEASES)
        await self._store.write(lambda: leases.replace_one(key, lease_fields(lease), upsert=True))

    async def get(self, holder: str) -> Lease | None:
        found = await self._store.one(by_key(LEASES, holder))
        return None if found is None else lease_of(found)

    async def all(self) -> list[Lease]:
        return [lease_of(one) for one in await self._store.find(of_leases(MOST_LEASES))]
