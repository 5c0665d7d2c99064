"""What is stored and asked for in a MongoDB database, without one: every query has its index, every text is a value."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from cloche_shared.adapters import mongo_documents
from cloche_shared.adapters.mongo_documents import (
    INDEXES,
    JOURNAL,
    LEASES,
    VIEWS,
    Query,
    by_key,
    by_keys,
    change_to,
    document_of,
    is_stream,
    of_leases,
    of_page,
    of_prefix,
    of_unsent,
    reached,
    row_of,
    written,
)
from cloche_shared.adapters.mongo_errors import of_write, unavailable
from cloche_shared.errors import ClocheError, Invalid, Unavailable
from cloche_shared.ports.journal import Document, OutcomeUnknownError
from cloche_shared.ports.views import Row

AFTER = ("2026-01-01", "a")
EVERY: Mapping[Callable[..., Query], Sequence[Query]] = {
    by_key: [by_key(JOURNAL, "a"), by_key(VIEWS, "a"), by_key(LEASES, "a")],
    by_keys: [by_keys(VIEWS, ["a", "b"])],
    of_prefix: [
        of_prefix("run/", "", 1, scans=False),
        of_prefix("run/default/a/", "run/default/a/000000000001", 100, scans=False),
    ],
    of_unsent: [of_unsent(200)],
    of_page: [
        of_page("runs", "default", facet, after, 50, descending=descending)
        for facet in (None, "queued")
        for after in (None, AFTER)
        for descending in (False, True)
    ],
}
ALL_OF_A_FEW = {of_leases}
"""One lease for each holder: all are wanted, and there are few."""


def covered(query: Query, fields: Sequence[str]) -> bool:
    """Whether an index on these fields answers a query: equal fields first, then the ordered one, nothing left over."""
    equal = {name for name, value in query.filter.items() if not isinstance(value, dict) or set(value) == {"$eq"}}
    ranged = set(query.filter) - equal
    used = list(fields[: len(equal) + 1])
    ordered = used[-1] if len(used) > len(equal) else ""
    return set(used[: len(equal)]) == equal and ranged <= {query.by} and (query.by in equal or ordered == query.by)


def test_every_query_of_the_module_is_looked_at() -> None:
    made = {
        function
        for function in vars(mongo_documents).values()
        if inspect.isfunction(function) and function.__annotations__.get("return") is Query
    }
    assert made == set(EVERY) | ALL_OF_A_FEW


@pytest.mark.parametrize("query", [query for queries in EVERY.values() for query in queries], ids=repr)
def test_every_query_is_covered_by_the_key_or_by_a_declared_index(query: Query) -> None:
    usable = [["_id"]]
    for index in INDEXES:
        matching = index.only is None or index.only.items() <= query.filter.items()
        if index.collection == query.collection and matching:
            usable.append([name for name, _ in index.fields])
    assert any(covered(query, fields) for fields in usable)


def test_a_scanning_server_is_told_the_kind_and_where_only_the_next_stream_is_wanted() -> None:
    assert of_prefix("run/default/", "", 100, scans=True).filter["kind"] == "run"
    assert of_prefix("run/", "run/default/a/~", 1, scans=True).filter["head"] == "run"
    assert "head" not in of_prefix("run/", "run/default/a/000000000001", 1, scans=True).filter
    assert set(of_prefix("", "", 100, scans=True).filter) == {"_id"}


def test_documents_and_rows_read_back_as_they_were() -> None:
    sent, unsent = Document("answers/default/x", b"{}"), Document("run/default/a/000000000001", b"{}", "t", "p")
    assert document_of(written(unsent)) == unsent
    assert document_of(written(sent)).body == sent.body
    assert "unsent" not in written(sent)
    row = Row("runs", "default", "a", 3, "s", b"{}", "f")
    assert row_of(change_to(row)[1]["$set"]) == row


@pytest.mark.parametrize(
    ("prefix", "after", "behind"),
    [
        ("run/default/a/", "", 0),
        ("run/default/a/", "run/default/", 0),
        ("run/default/a/", "run/default/a/", 0),
        ("run/default/a/", "run/default/a/000000000007", 7),
        ("run/default/a/", "run/default/a/~", None),
        ("run/default/a/", "run/default/b/000000000001", None),
    ],
)
def test_where_a_stream_goes_on_is_told_by_the_key_that_was_read_last(
    prefix: str, after: str, behind: int | None
) -> None:
    assert is_stream(prefix)
    assert reached(prefix, after) == behind


@pytest.mark.parametrize("prefix", ["run/", "run/default/", "answers/default/a/", "run/default/a", ""])
def test_other_prefixes_are_no_streams(prefix: str) -> None:
    assert not is_stream(prefix)


@pytest.mark.parametrize(
    "error",
    [
        NetworkTimeout("timed out"),
        AutoReconnect("connection closed"),
        NotPrimaryError("stepped down"),
        ExecutionTimeout("over", 50),
        WTimeoutError("waited", 64),
        WriteConcernError("waited", 64),
        OperationFailure("internal", 1),
        OperationFailure("nobody told"),
        BulkWriteError({"writeErrors": [{"index": 0, "code": 1}]}),
        TimeoutError(),
    ],
    ids=repr,
)
def test_after_these_nobody_knows_whether_it_was_written(error: Exception) -> None:
    assert isinstance(of_write(error), OutcomeUnknownError)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ServerSelectionTimeoutError("none"), Unavailable, "store_unavailable"),
        (WaitQueueTimeoutError("full"), Unavailable, "store_unavailable"),
        (OperationFailure("no", 18), Unavailable, "store_auth"),
        (OperationFailure("no: (SQLSTATE 28P01)", 1), Unavailable, "store_auth"),
        (OperationFailure("bad", 2), Unavailable, "store_unavailable"),
        (OperationFailure("disk", 14031), Unavailable, "store_unavailable"),
        (DocumentTooLarge("large"), Invalid, "document_too_large"),
    ],
    ids=repr,
)
def test_after_these_nothing_was_written(error: Exception, kind: type[ClocheError], code: str) -> None:
    found = of_write(error)
    assert isinstance(found, kind)
    assert found.code == code


def test_what_a_user_wrote_into_a_key_is_not_taken_for_the_servers_word() -> None:
    error = DuplicateKeyError("dup key: (SQLSTATE 28P01)", 11000)
    found = unavailable(error)
    assert found.code == "store_unavailable"
    assert "28P01" not in str(found)
