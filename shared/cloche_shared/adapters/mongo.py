"""Journal, views and leases on MongoDB or a compatible server, through motor.

Only one thing is trusted: that of two inserts under one `_id` exactly one succeeds. Keys are read by
equality on the hot path, which is quick on every server; ranges serve lists and repairs
(docs/explanation/journal.md). motor is imported in this file only, and only through calls that
`pymongo.AsyncMongoClient` offers under the same names.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import motor.motor_asyncio
from pymongo import ASCENDING, DESCENDING, UpdateOne, WriteConcern
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from cloche_shared.adapters.waiters import Waiters
from cloche_shared.backends import MongoSettings
from cloche_shared.errors import ClocheError, Invalid, Unavailable
from cloche_shared.journal.commit import SEQUENCE_DIGITS
from cloche_shared.ports.journal import Document, Lease, OutcomeUnknownError, Verdict
from cloche_shared.ports.views import Row

DUPLICATE: Final = 11000
MOST_BYTES: Final = 15 << 20
"""Of one document; the server's own limit is 16 MiB."""
MARGIN_S: Final = 1.0
"""Beyond the client's own time-outs, before an operation is given up."""
AT_ONCE: Final = 16
"""Keys that are read or marked at a time."""
LAST: Final = chr(0x10FFFF)
BETWEEN: Final = "\x01"
"""Stands between sort text and key in the field that pages are ordered by; neither text holds it."""
POLL_S: Final = (0.005, 0.01, 0.02, 0.05)
_AUTH: Final = frozenset((13, 18, 8000))
_LEVELS: Final = 3

T = TypeVar("T")
Found = Mapping[str, Any]
Change = tuple[dict[str, Any], dict[str, Any]]
"""What a row must be like to be changed, and what is set."""
_WRITES_UNKNOWN = (AutoReconnect, ExecutionTimeout, WriteConcernError, WTimeoutError, TimeoutError)


def _unavailable(error: Exception) -> Unavailable:
    """Return what users see; the driver's own texts may hold addresses and are left out."""
    why = type(error).__name__
    if isinstance(error, OperationFailure) and error.code in _AUTH:
        todo = "See mongo.username and mongo.password_file."
        return Unavailable("store_auth", "The document store refuses the credentials.", why=why, todo=todo)
    todo = "Try again; nothing was lost."
    return Unavailable("store_unavailable", "The document store does not answer.", why=why, todo=todo)


class MongoStore:
    """One service's database: `<database>_<service>`."""

    def __init__(self, settings: MongoSettings, service: str) -> None:
        self._settings = settings
        self._name = f"{settings.database}_{service}"
        self._client: Any = None
        self.scans = False
        self.journal = MongoJournal(self)
        self.views = MongoViews(self)
        self.leases = MongoLeases(self)

    def collection(self, name: str) -> Any:  # noqa: ANN401 - motor has no types
        """Return a collection with the write concern that makes a 'yes' durable."""
        if self._client is None:
            self._client = _connected(self._settings)
        concern = WriteConcern("majority") if self._settings.replica_set else WriteConcern(1, j=True)
        return self._client[self._name].get_collection(name, write_concern=concern)

    async def read(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do what changes nothing. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(self._settings.timeout_s + MARGIN_S):
                return await action()
        except (PyMongoError, TimeoutError) as error:
            raise _unavailable(error) from error

    async def write(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do what may have been done although no answer came. Raises `OutcomeUnknownError`, `Unavailable`."""
        try:
            async with asyncio.timeout(self._settings.timeout_s + MARGIN_S):
                return await action()
        except ServerSelectionTimeoutError as error:
            raise _unavailable(error) from error  # no server was found, so nothing was sent
        except _WRITES_UNKNOWN as error:
            raise OutcomeUnknownError(f"the document store did not answer: {type(error).__name__}") from error
        except DocumentTooLarge as error:
            raise _too_large() from error
        except PyMongoError as error:
            raise _unavailable(error) from error

    async def probe(self) -> str:
        """Make the indexes; return which server it is and what it guarantees.

        Raises `Unavailable` while it does not answer, `Invalid` (`store_auth`, `store_unsuitable`) for
        what waiting does not mend.
        """
        try:
            info = await self.read(self._info)
            await self._check_unique()
        except Unavailable as error:
            if error.code == "store_auth":
                raise Invalid(error.code, error.what, why=error.why, todo=error.todo) from error
            raise
        self.scans = "ferretdb" in info or "ferretdbVersion" in info
        indexed = await self._make_indexes()
        product = f"FerretDB {info.get('ferretdbVersion', '')}".strip() if self.scans else "MongoDB"
        says = "unique keys are arbitrated; ranges are scanned" if self.scans else "unique keys are arbitrated"
        concern = "majority" if self._settings.replica_set else "one server, journaled"
        return f"{product} {info.get('version', '?')} ({says}; {concern}; {indexed} indexes)"

    async def _info(self) -> Found:
        self.collection("journal")
        found: Found = await self._client[self._name].command("buildInfo")
        return found

    async def _check_unique(self) -> None:
        """See that a second insert under one key is refused: everything rests on that."""
        probes = self.collection("probe")
        key = {"_id": f"probe-{time.time_ns()}"}
        await self.write(lambda: probes.insert_one(dict(key)))
        try:
            await self.write(lambda: probes.insert_one(dict(key)))
        except Unavailable as error:
            if not isinstance(error.__cause__, DuplicateKeyError):
                raise
        else:
            raise Invalid(
                "store_unsuitable",
                "The document store takes two documents under one key.",
                todo="Use MongoDB, or a server on which _id is unique.",
            )
        finally:
            await self.write(lambda: probes.delete_one(key))

    async def _make_indexes(self) -> int:
        made = 0
        for collection, fields, options in INDEXES:
            try:
                await self.write(lambda: self.collection(collection).create_index(fields, **options))  # noqa: B023 - awaited at once
            except Unavailable as error:
                if not (self.scans and isinstance(error.__cause__, OperationFailure)):
                    raise
            else:
                made += 1
        return made

    async def check(self) -> str | None:
        """Return what is wrong with the server now, None when it is well."""
        try:
            await self.read(lambda: self.collection("leases").find_one({"_id": "nobody"}))
        except ClocheError as error:
            return f"{error.code}: {error.why}"
        return None

    async def drop(self) -> None:
        """Remove the service's database with all that is in it."""
        await self.write(lambda: self._client.drop_database(self._name))

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            self._client.close()
            self._client = None


INDEXES: Final[tuple[tuple[str, list[tuple[str, int]], dict[str, Any]], ...]] = (
    ("journal", [("unsent", ASCENDING)], {"sparse": True}),
    ("views", [("view", ASCENDING), ("project", ASCENDING), ("order", ASCENDING)], {}),
    ("views", [("view", ASCENDING), ("project", ASCENDING), ("facet", ASCENDING), ("order", ASCENDING)], {}),
)
"""Besides `_id`. Every query that is no look-up by key is covered by one of these."""


def _connected(settings: MongoSettings) -> Any:  # noqa: ANN401 - motor has no types
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": round(settings.timeout_s * 1000),
        "connectTimeoutMS": round(settings.timeout_s * 1000),
        "socketTimeoutMS": round(settings.timeout_s * 1000),
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
    try:
        return motor.motor_asyncio.AsyncIOMotorClient(settings.hosts.split(","), **options)
    except (ConfigurationError, ValueError) as error:
        raise Invalid(
            "invalid_setting", "The settings of the document store are not valid.", why=type(error).__name__
        ) from None


def _too_large() -> Invalid:
    return Invalid(
        "document_too_large",
        f"A document is larger than {MOST_BYTES} bytes.",
        todo="Large parts belong into blobs.",
    )


class MongoJournal:
    """One service's documents: `_id` is the key, and the only arbiter. `unsent` orders what the bus has not got."""

    atomic = False

    def __init__(self, store: MongoStore) -> None:
        self._store = store

    @property
    def _documents(self) -> Any:  # noqa: ANN401 - motor has no types
        return self._store.collection("journal")

    async def append_many(self, documents: Sequence[Document]) -> list[Verdict]:
        if not documents:
            return []
        if any(len(document.body) > MOST_BYTES for document in documents):
            raise _too_large()
        rows = [_written(document) for document in documents]
        held = await self._store.write(lambda: self._insert(rows))
        if held is None:
            return [Verdict.INSERTED] * len(documents)
        behind = len(documents) - held - 1
        return [Verdict.INSERTED] * held + [Verdict.DUPLICATE] + [Verdict.SKIPPED] * behind

    async def _insert(self, rows: list[dict[str, Any]]) -> int | None:
        """Insert in order; return the index of the first key that is held, None when none is."""
        try:
            if len(rows) == 1:
                await self._documents.insert_one(rows[0])
            else:
                await self._documents.insert_many(rows, ordered=True)
        except DuplicateKeyError:
            return 0
        except BulkWriteError as error:
            failed = (error.details or {}).get("writeErrors") or [{}]
            if failed[0].get("code") == DUPLICATE:
                return int(failed[0]["index"])
            raise OutcomeUnknownError("the document store wrote only a part") from error
        return None

    async def get(self, key: str) -> Document | None:
        found = await self._store.read(lambda: self._documents.find_one({"_id": key}))
        return _document(found)

    async def read(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Document]:
        if self._store.scans and _is_stream(prefix):
            return await self._walk(prefix, after, limit)
        bound = {"$gt": after} if after >= prefix else {"$gte": prefix}
        query = {"_id": {**bound, "$lt": prefix + LAST}}
        found = await self._store.read(
            lambda: self._documents.find(query).sort("_id", ASCENDING).limit(limit).to_list(limit)
        )
        return [document for one in found if (document := _document(one)) is not None]

    async def _walk(self, prefix: str, after: str, limit: int) -> list[Document]:
        """Read a stream key by key from where it goes on, for servers that scan for a range."""
        tail = after.removeprefix(prefix) if after.startswith(prefix) else "0"
        if not tail.isdigit():
            return []
        seq, found = int(tail), list[Document]()
        while len(found) < limit:
            count = min(AT_ONCE, limit - len(found))
            keys = [f"{prefix}{seq + step:0{SEQUENCE_DIGITS}d}" for step in range(1, count + 1)]
            batch = await asyncio.gather(*(self.get(key) for key in keys))
            whole = [document for document in batch if document is not None]
            found += whole
            seq += len(whole)
            if len(whole) < count:
                break
        return found

    async def unsent(self, limit: int = 1000) -> list[Document]:
        query = {"unsent": {"$gt": 0}}
        found = await self._store.read(
            lambda: self._documents.find(query).sort("unsent", ASCENDING).limit(limit).to_list(limit)
        )
        return [document for one in found if (document := _document(one)) is not None]

    async def mark_sent(self, keys: Sequence[str]) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def mark(key: str) -> None:
            async with slots:
                await self._documents.update_one({"_id": key}, {"$unset": {"unsent": ""}})

        async def mark_all() -> None:
            await asyncio.gather(*(mark(key) for key in keys))

        await self._store.write(mark_all)


def _is_stream(prefix: str) -> bool:
    """Whether a prefix is that of one stream (`<kind>/<project>/<id>/`)."""
    return prefix.endswith("/") and prefix.count("/") >= _LEVELS and not prefix.startswith("answers/")


def _written(document: Document) -> dict[str, Any]:
    row: dict[str, Any] = {"_id": document.key, "body": document.body}
    if document.topic:
        row |= {"topic": document.topic, "partition": document.partition_key, "unsent": time.time_ns()}
    return row


def _document(found: Found | None) -> Document | None:
    if found is None:
        return None
    return Document(
        found["_id"], bytes(found["body"]), found.get("topic", ""), found.get("partition", ""), "unsent" not in found
    )


class MongoViews:
    """One service's lists. A row's `order` is its sort text and its key, so that a page is one range of an index.

    Rows are written by one projector per partition and derived again by a sweep; where a server's
    conditional update is not atomic, two sweeps at once may leave an older row until the next.
    """

    def __init__(self, store: MongoStore) -> None:
        self._store = store
        self._waiters = Waiters()

    @property
    def _rows(self) -> Any:  # noqa: ANN401 - motor has no types
        return self._store.collection("views")

    async def upsert(self, rows: Sequence[Row]) -> None:
        newest = {_place(row.view, row.project, row.key): row for row in sorted(rows, key=lambda row: row.seq)}
        changes = [({"_id": place, "seq": {"$lte": row.seq}}, {"$set": _fields(row)}) for place, row in newest.items()]
        if changes:
            write = self._write_each if self._store.scans else self._write_bulk
            await self._store.write(lambda: write(changes))
            self._waiters.reached(rows)

    async def _write_bulk(self, changes: list[Change]) -> None:
        """Write at once; a key that is held by a newer row looks like a duplicate, and stays."""
        try:
            await self._rows.bulk_write([UpdateOne(*change, upsert=True) for change in changes], ordered=False)
        except BulkWriteError as error:
            if any(one.get("code") != DUPLICATE for one in (error.details or {}).get("writeErrors", ())):
                raise

    async def _write_each(self, changes: list[Change]) -> None:
        """Write one by one: FerretDB's answer to several, one of them a duplicate, cannot be read by the driver."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def write(change: Change) -> None:
            async with slots:
                with suppress(DuplicateKeyError):
                    await self._rows.update_one(*change, upsert=True)

        await asyncio.gather(*(write(change) for change in changes))

    async def get(self, view: str, project: str, key: str) -> Row | None:
        found = await self._store.read(lambda: self._rows.find_one({"_id": _place(view, project, key)}))
        return None if found is None else _row(found)

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
        query: dict[str, Any] = {"view": view, "project": project}
        if facet is not None:
            query["facet"] = facet
        if after is not None:
            query["order"] = {"$lt" if descending else "$gt": BETWEEN.join(after)}
        direction = DESCENDING if descending else ASCENDING
        found = await self._store.read(
            lambda: self._rows.find(query).sort("order", direction).limit(limit).to_list(limit)
        )
        return [_row(one) for one in found]

    async def delete(self, view: str, project: str, key: str) -> None:
        await self._store.write(lambda: self._rows.delete_one({"_id": _place(view, project, key)}))
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


def _place(view: str, project: str, key: str) -> str:
    return f"{view}/{project}/{key}"


def _fields(row: Row) -> dict[str, Any]:
    return {
        "view": row.view,
        "project": row.project,
        "key": row.key,
        "seq": row.seq,
        "sort": row.sort,
        "order": f"{row.sort}{BETWEEN}{row.key}",
        "facet": row.facet,
        "body": row.body,
    }


def _row(found: Found) -> Row:
    return Row(
        found["view"],
        found["project"],
        found["key"],
        int(found["seq"]),
        found["sort"],
        bytes(found["body"]),
        found["facet"],
    )


class MongoLeases:
    """One service's leases."""

    def __init__(self, store: MongoStore) -> None:
        self._store = store

    async def put(self, lease: Lease) -> None:
        row = {
            "counter": lease.counter,
            "ttl": lease.ttl,
            "address": lease.address,
            "grant_until": lease.grant_until,
        }
        leases = self._store.collection("leases")
        await self._store.write(lambda: leases.replace_one({"_id": lease.holder}, row, upsert=True))

    async def get(self, holder: str) -> Lease | None:
        found = await self._store.read(lambda: self._store.collection("leases").find_one({"_id": holder}))
        return None if found is None else _lease(found)

    async def all(self) -> list[Lease]:
        found = await self._store.read(lambda: self._store.collection("leases").find({}).to_list(None))
        return sorted((_lease(one) for one in found), key=lambda lease: lease.holder)


def _lease(found: Found) -> Lease:
    return Lease(
        found["_id"], int(found["counter"]), float(found["ttl"]), found["address"], float(found["grant_until"])
    )
