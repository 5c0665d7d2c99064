"""How documents, rows and leases look in a MongoDB database, the queries over them, and the indexes that cover these.

Nothing here talks to a server. Values of users stand only where values stand: never as the name of a
field, and never where an operator could be read, since every one of them is a text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cloche_shared.journal.commit import SEQUENCE_DIGITS, place_of
from cloche_shared.ports.journal import Document, Lease
from cloche_shared.ports.views import Row

ASCENDING: Final = 1
DESCENDING: Final = -1
JOURNAL: Final = "journal"
VIEWS: Final = "views"
LEASES: Final = "leases"

LAST: Final = chr(0x10FFFF)
BETWEEN: Final = "\x01"
"""Stands between sort text and key in the field that pages are ordered by; neither text holds it."""
BEHIND: Final = "/~"
"""Ends what stands behind every document of a stream."""
_LEVELS: Final = 3

Found = Mapping[str, Any]
Change = tuple[dict[str, Any], dict[str, Any]]
"""What a row must be like to be changed, and what is set."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index besides that of `_id`. `only`: it holds nothing but documents like this, where a server can do that."""

    collection: str
    fields: Sequence[tuple[str, int]]
    only: Mapping[str, Any] | None = None


INDEXES: Final = (
    Index(JOURNAL, (("unsent", ASCENDING), ("_id", ASCENDING)), {"unsent": True}),
    Index(VIEWS, (("view", ASCENDING), ("project", ASCENDING), ("order", ASCENDING))),
    Index(VIEWS, (("view", ASCENDING), ("project", ASCENDING), ("facet", ASCENDING), ("order", ASCENDING))),
)


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for in a collection: a filter, one field to order by, and how many."""

    collection: str
    filter: dict[str, Any]
    by: str = "_id"
    direction: int = ASCENDING
    limit: int = field(default=1000)


# --- queries; each is a look-up by `_id` or a range of one of the indexes


def by_key(collection: str, key: str) -> Query:
    """Return the query for one document."""
    return Query(collection, {"_id": {"$eq": key}}, limit=1)


def by_keys(collection: str, keys: Sequence[str]) -> Query:
    """Return the query for several documents."""
    return Query(collection, {"_id": {"$in": list(keys)}}, limit=len(keys))


def of_prefix(prefix: str, after: str, limit: int, *, scans: bool) -> Query:
    """Return the query for a range of keys.

    A server that scans for ranges is quick at equal fields: it is told the kind of the keys, and where
    only the next stream is looked for, that it is found by its first document.
    """
    bound = {"$gt": after} if after >= prefix else {"$gte": prefix}
    query: dict[str, Any] = {"_id": {**bound, "$lt": prefix + LAST}}
    kind, slash, _ = prefix.partition("/")
    if scans and slash:
        next_stream = limit == 1 and (not after or after.endswith(BEHIND))
        query["head" if next_stream else "kind"] = kind
    return Query(JOURNAL, query, limit=limit)


def of_unsent(limit: int) -> Query:
    """Return the query for what the bus has not got: in order of keys, so that no clock decides."""
    return Query(JOURNAL, {"unsent": True}, limit=limit)


def of_page(
    view: str, project: str, facet: str | None, after: tuple[str, str] | None, limit: int, *, descending: bool
) -> Query:
    """Return the query for a page of a list."""
    query: dict[str, Any] = {"view": view, "project": project}
    if facet is not None:
        query["facet"] = facet
    if after is not None:
        query["order"] = {"$lt" if descending else "$gt": BETWEEN.join(after)}
    return Query(VIEWS, query, "order", DESCENDING if descending else ASCENDING, limit)


def of_leases(limit: int) -> Query:
    """Return the query for every lease: there is one for each holder."""
    return Query(LEASES, {}, limit=limit)


# --- documents


def is_stream(prefix: str) -> bool:
    """Whether a prefix is that of one stream (`<kind>/<project>/<id>/`)."""
    return prefix.endswith("/") and prefix.count("/") == _LEVELS and not prefix.startswith("answers/")


def reached(prefix: str, after: str) -> int | None:
    """Return the number of a stream's document that `after` names (0: none is passed), None where it names no such."""
    if not after.startswith(prefix):
        return 0 if after < prefix else None
    tail = after.removeprefix(prefix)
    if not tail:
        return 0
    return int(tail) if tail.isdigit() and len(tail) == SEQUENCE_DIGITS else None


def written(document: Document) -> dict[str, Any]:
    """Return a document as it is stored."""
    stream, seq = place_of(document.key)
    row: dict[str, Any] = {"_id": document.key, "kind": stream.kind, "body": document.body}
    if seq == 1:
        row["head"] = stream.kind
    if document.topic:
        row |= {"topic": document.topic, "partition": document.partition_key, "unsent": True}
    return row


def document_of(found: Found) -> Document:
    """Return a document that was stored."""
    return Document(
        found["_id"], bytes(found["body"]), found.get("topic", ""), found.get("partition", ""), "unsent" not in found
    )


def place(view: str, project: str, key: str) -> str:
    """Return the `_id` of a row."""
    return f"{view}/{project}/{key}"


def change_to(row: Row) -> Change:
    """Return how a row is written: not where a newer one stands."""
    return ({"_id": place(row.view, row.project, row.key), "seq": {"$lte": row.seq}}, {"$set": _fields(row)})


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


def row_of(found: Found) -> Row:
    """Return a row that was stored."""
    return Row(
        found["view"],
        found["project"],
        found["key"],
        int(found["seq"]),
        found["sort"],
        bytes(found["body"]),
        found["facet"],
    )


def lease_fields(lease: Lease) -> dict[str, Any]:
    """Return a lease as it is stored under its holder."""
    return {"counter": lease.counter, "ttl": lease.ttl, "address": lease.address, "grant_until": lease.grant_until}


def lease_of(found: Found) -> Lease:
    """Return a lease that was stored."""
    return Lease(
        found["_id"], int(found["counter"]), float(found["ttl"]), found["address"], float(found["grant_until"])
    )
