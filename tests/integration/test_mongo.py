"""The document store's adapter on a real server: races, rights, encryption, secrets, and what its queries cost."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.adapters.mongo_documents import (
    LEASES,
    VIEWS,
    Query,
    by_key,
    by_keys,
    of_page,
    of_prefix,
    of_unsent,
)
from cloche_shared.adapters.mongo_errors import MOST_BYTES
from cloche_shared.backends import MongoSettings
from cloche_shared.errors import ClocheError, Invalid, Unavailable
from cloche_shared.ports.journal import Document, Lease, Verdict
from cloche_shared.ports.views import Row
from tests.environments.mongo import mongo_settings
from tests.environments.servers import MongoServer

WRITERS, KEYS = 8, 200
CANARY = "canary-4711-secret"


def document(name: str, seq: int = 1, body: bytes = b"{}", topic: str = "cloche.runs") -> Document:
    return Document(f"run/default/{name}/{seq:012d}", body, topic, f"run/default/{name}")


def row(key: str, seq: int) -> Row:
    return Row("runs", "default", key, seq, f"{seq:03d}", str(seq).encode())


@asynccontextmanager
async def opened(settings: MongoSettings) -> AsyncIterator[MongoStore]:
    store = MongoStore(settings, "runner")
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def stores(mongo_server: MongoServer) -> AsyncIterator[list[MongoStore]]:
    """Two clients of one database, as two replicas are."""
    settings = mongo_settings(mongo_server)
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(opened(settings)) for _ in range(2)]
        await asyncio.gather(*(store.probe() for store in found))
        yield found
        await found[0].drop()


# --- who it is


async def test_the_probe_says_product_and_version_and_what_is_guaranteed(
    stores: list[MongoStore], mongo_server: MongoServer
) -> None:
    said = await stores[0].probe()
    assert said.startswith(mongo_server.product.split()[0].partition(":")[0].replace("mongo", "MongoDB"))
    assert any(letter.isdigit() for letter in said.partition("(")[0])
    assert "unique keys are arbitrated" in said
    assert "journaled" in said or "majority" in said


async def test_many_replicas_may_start_at_once(mongo_server: MongoServer) -> None:
    settings = mongo_settings(mongo_server)
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(opened(settings)) for _ in range(WRITERS)]
        assert len(set(await asyncio.gather(*(store.probe() for store in found)))) == 1
        await found[0].drop()


async def test_everything_works_over_tls(mongo_server: MongoServer) -> None:
    more = {"hosts": mongo_server.tls_host, "tls": True, "ca_file": mongo_server.authority}
    async with opened(mongo_settings(mongo_server, **more)) as store:
        await store.probe()
        assert await store.journal.append_many([document("a")]) == [Verdict.INSERTED]
        await store.drop()


async def test_a_server_with_a_certificate_of_a_stranger_is_not_talked_to(mongo_server: MongoServer) -> None:
    more = {"hosts": mongo_server.tls_host, "tls": True, "timeout_s": 1.0}
    async with opened(mongo_settings(mongo_server, **more)) as store:
        with pytest.raises(Unavailable, match="ca_file") as failed:
            await store.probe()
    assert failed.value.code == "store_unavailable"


@pytest.mark.parametrize("more", [{"password": SecretStr(CANARY)}, {"username": "", "auth_mechanism": ""}])
async def test_wrong_credentials_end_the_start_with_the_cure(mongo_server: MongoServer, more: dict[str, Any]) -> None:
    async with opened(mongo_settings(mongo_server, timeout_s=2.0, **more)) as store:
        with pytest.raises(Invalid, match="password_file") as failed:
            await store.probe()
    assert failed.value.code == "store_auth"


async def test_an_authority_that_is_not_there_is_a_wrong_setting(mongo_server: MongoServer) -> None:
    async with opened(mongo_settings(mongo_server, tls=True, ca_file="/absent.pem")) as store:
        with pytest.raises(Invalid) as failed:
            await store.journal.append_many([document("a")])
    assert failed.value.code == "invalid_setting"


async def test_the_password_is_in_no_text(mongo_server: MongoServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen = []
    for more in (
        {},
        {"password": SecretStr(CANARY)},
        {"password": SecretStr(CANARY), "hosts": "127.0.0.1:9"},
        {"password": SecretStr(CANARY), "tls": True, "ca_file": "/absent.pem"},
    ):
        settings = mongo_settings(mongo_server, timeout_s=1.0, **more)
        async with opened(settings) as store:
            try:
                seen.append(repr(store.collection("probe")))
                seen.append(await store.probe())
                await store.drop()
            except ClocheError as error:
                seen += [str(error), repr(error), "".join(traceback.format_exception(error))]
            seen += [repr(store), repr(settings)]
    told = caplog.text + "".join(seen)
    assert CANARY not in told
    assert mongo_server.password not in told


# --- one arbiter


async def test_of_eight_writers_for_each_of_200_keys_exactly_one_wins(stores: list[MongoStore]) -> None:
    async def write(writer: int) -> list[int]:
        journal = stores[writer % 2].journal
        bodies = (document("race", seq, str(writer).encode()) for seq in range(1, KEYS + 1))
        found = [(await journal.append_many([one]))[0] for one in bodies]
        return [seq for seq, verdict in enumerate(found, 1) if verdict is Verdict.INSERTED]

    won = await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    assert sorted(seq for mine in won for seq in mine) == list(range(1, KEYS + 1))
    held = await stores[0].journal.read("run/default/race/")
    assert [seq in won[int(one.body)] for seq, one in enumerate(held, 1)] == [True] * KEYS


async def test_a_stream_that_grows_is_read_without_a_gap(stores: list[MongoStore]) -> None:
    async def grow() -> None:
        for seq in range(1, 101):
            await stores[0].journal.append_many([document("grows", seq)])

    growing = asyncio.create_task(grow())
    while not growing.done():
        found = await stores[1].journal.read("run/default/grows/")
        assert [one.key for one in found] == [document("grows", seq).key for seq in range(1, len(found) + 1)]
    await growing


async def test_what_is_unsent_comes_in_order_of_its_numbers_whoever_wrote_it_when(stores: list[MongoStore]) -> None:
    for seq in (3, 1, 2):
        await stores[seq % 2].journal.append_many([document("late", seq), document(f"other{seq}")])
    found = await stores[0].journal.unsent()
    assert [one.key for one in found if "/late/" in one.key] == [document("late", seq).key for seq in (1, 2, 3)]
    await asyncio.gather(*(store.journal.mark_sent([one.key for one in found]) for store in stores))
    assert await stores[1].journal.unsent() == []


async def test_two_that_write_a_row_for_the_first_time_leave_the_newer_one(stores: list[MongoStore]) -> None:
    rows = [[row(f"k{number}", seq) for number in range(30)] for seq in (1, 2)]
    await asyncio.gather(*(store.views.upsert(mine) for store, mine in zip(stores, rows, strict=True)))
    assert [one.seq for one in await stores[0].views.page("runs", "default")] == [2] * 30


async def test_lists_that_two_sweep_at_once_are_right_after_the_next_sweep(stores: list[MongoStore]) -> None:
    async def sweep(store: MongoStore, newest: int) -> None:
        for seq in range(1, newest + 1):
            await store.views.upsert([row(f"k{number}", seq) for number in range(10)])

    await asyncio.gather(sweep(stores[0], 8), sweep(stores[1], 6))
    await stores[1].views.upsert([row(f"k{number}", 8) for number in range(10)])
    assert [one.seq for one in await stores[0].views.page("runs", "default")] == [8] * 10


async def test_a_row_that_another_replica_writes_wakes_who_waits(stores: list[MongoStore]) -> None:
    waiting = asyncio.create_task(stores[0].views.changed("runs", "default", "a", 2))
    await stores[1].views.upsert([row("a", 1)])
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await stores[1].views.upsert([row("a", 2)])
    await asyncio.wait_for(waiting, 2)


# --- data stays data


@pytest.mark.parametrize("text", ['{"$gt": ""}', "$where", "$ne", "a.b.$c", "$$ROOT", "{$regex: .*}", "\u2028'\";--"])
async def test_an_operator_in_a_users_text_is_a_text(stores: list[MongoStore], text: str) -> None:
    journal, views, leases = stores[0].journal, stores[0].views, stores[0].leases
    await journal.append_many([document("plain"), document(text, body=text.encode(), topic=text)])
    found = await journal.get(document(text).key)
    assert found == document(text, body=text.encode(), topic=text)
    assert await journal.get(text) is None
    assert await journal.read(text) == []
    await journal.mark_sent([text])
    assert len(await journal.unsent()) == 2
    mine = Row(text, text, text, 1, text, b"{}", text)
    await views.upsert([row("plain", 1), mine])
    assert await views.get(text, text, text) == mine
    assert await views.page(text, text, facet=text) == [mine]
    assert await views.page("runs", "default", facet=text) == []
    await views.delete("runs", "default", text)
    assert len(await views.page("runs", "default")) == 1
    await leases.put(Lease(text, 1, 30.0, text))
    assert await leases.all() == [Lease(text, 1, 30.0, text)]


async def test_a_document_over_the_limit_is_refused_with_all_that_came_with_it(stores: list[MongoStore]) -> None:
    journal = stores[0].journal
    with pytest.raises(Invalid) as failed:
        await journal.append_many([document("small"), document("large", body=b"x" * (MOST_BYTES + 1))])
    assert failed.value.code == "document_too_large"
    assert await journal.get(document("small").key) is None


async def test_a_document_of_several_mebibytes_is_kept(stores: list[MongoStore]) -> None:
    long = document("long", body=b"x" * (3 << 20))
    assert await stores[0].journal.append_many([long]) == [Verdict.INSERTED]
    assert await stores[1].journal.get(long.key) == long


# --- what queries cost

ASKED = {
    "a document": by_key("journal", document("a").key),
    "a row": by_key(VIEWS, "runs/default/a"),
    "some rows": by_keys(VIEWS, ["runs/default/a", "runs/default/b"]),
    "a lease": by_key(LEASES, "node-1"),
    "what is unsent": of_unsent(200),
    "a list": of_page("runs", "default", None, ("a", "a"), 50, descending=True),
    "a filtered list": of_page("runs", "default", "queued", ("a", "a"), 50, descending=False),
    "a stream": of_prefix("run/default/a/", document("a").key, 100, scans=False),
    "a kind": of_prefix("run/", "", 1, scans=False),
    "a kind, told": of_prefix("run/", "", 1, scans=True),
}
SCANNED = {"a stream", "a kind", "some rows"}
"""The adapter does not ask these of a server that scans: it reads by single keys, and tells the kind."""


async def plan(store: MongoStore, query: Query) -> dict[str, Any]:
    collection = store.collection(query.collection)
    asked = {
        "find": query.collection,
        "filter": query.filter,
        "sort": {query.by: query.direction},
        "limit": query.limit,
    }
    found: dict[str, Any] = await collection.database.command("explain", asked)
    return found


@pytest.mark.parametrize("what", ASKED)
async def test_the_server_answers_each_query_from_an_index(stores: list[MongoStore], what: str) -> None:
    store, query = stores[0], ASKED[what]
    await store.journal.append_many([document("a", seq) for seq in range(1, 50)])
    await store.views.upsert([row("a", 1)])
    await store.leases.put(Lease("node-1", 1, 30.0))
    found = await plan(store, query)
    if store.scans:  # no plan names an index there: what PostgreSQL filters is what FerretDB need not read through
        assert found["filterPushdown"] is (what not in SCANNED)
    else:
        assert {"COLLSCAN", "SORT"} & set(str(found).replace("'", " ").split()) == set()
