"""The document store killed, paused and restarted under the adapter, and answers that get lost on the way."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.backends import MongoSettings
from cloche_shared.errors import Unavailable
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.journal import Document, Lease, OutcomeUnknownError, Verdict
from cloche_shared.ports.views import Row
from tests.environments.fixtures import Start
from tests.environments.mongo import mongo_settings
from tests.environments.servers import MongoServer
from tests.environments.tcp_proxy import TcpProxy

TIMEOUT_S = 1.0
SETTLE = (0.05, 0.2, 0.5)
WRITERS, EACH = 6, 40
LOADED_S = 1.0
"""What a loaded machine may add to a deadline."""


def document(name: str, seq: int = 1, topic: str = "cloche.runs") -> Document:
    return Document(f"run/default/{name}/{seq:012d}", f'{{"id":"{name}-{seq}"}}'.encode(), topic, f"run/default/{name}")


def writer(store: MongoStore) -> Writer:
    return Writer(store.journal, SystemClock(), SystemRandom(), settle_delays=SETTLE)


@asynccontextmanager
async def opened(settings: MongoSettings) -> AsyncIterator[MongoStore]:
    store = MongoStore(settings, "runner")
    try:
        yield store
    finally:
        await store.close()


async def patiently(action: Callable[[], Awaitable[object]], *, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await action()
            except (Unavailable, OutcomeUnknownError):
                await asyncio.sleep(0.1)
            else:
                return


async def write_all(store: MongoStore, number: int, written: list[str], begun: asyncio.Event) -> None:
    """Write a stream as a service does: the same document again until the store says what holds its key."""
    for seq in range(1, EACH + 1):
        one = document(f"w{number}", seq)
        while True:
            try:
                verdicts = await writer(store).append([one])
            except Unavailable:
                await asyncio.sleep(0.1)
                continue
            # after "unavailable" it may stand there already: then it must be this very document
            held = await asyncio.wait_for(_held(store, one.key), 30)
            assert verdicts == [Verdict.INSERTED] or held.body == one.body
            written.append(one.key)
            if len(written) == WRITERS * 2:
                begun.set()
            break


async def _held(store: MongoStore, key: str) -> Document:
    while True:
        try:
            found = await store.journal.get(key)
        except Unavailable:
            await asyncio.sleep(0.1)
            continue
        assert found is not None, f"{key} was acknowledged"
        return found


@pytest.mark.parametrize("how", ["killed", "paused", "restarted"])
async def test_nothing_is_lost_and_nothing_is_there_twice_when_the_server_fails_amid_inserts(
    own_server: Start, how: str
) -> None:
    server = await asyncio.to_thread(own_server, "mongo")
    assert isinstance(server, MongoServer)
    handle, written, begun = server.handle(), list[str](), asyncio.Event()
    async with opened(mongo_settings(server, timeout_s=TIMEOUT_S)) as store:
        await patiently(store.probe)
        writing = [asyncio.create_task(write_all(store, number, written, begun)) for number in range(WRITERS)]
        await begun.wait()
        if how == "killed":
            await asyncio.to_thread(handle.kill)
            await asyncio.to_thread(handle.start)
        elif how == "paused":
            await asyncio.to_thread(handle.pause)
            await asyncio.sleep(3 * TIMEOUT_S)
            await asyncio.to_thread(handle.unpause)
        else:
            await asyncio.to_thread(handle.restart, timeout=1)
        await asyncio.wait_for(asyncio.gather(*writing), 120)
        await patiently(lambda: store.journal.get(written[0]))
        for number in range(WRITERS):
            held = await store.journal.read(f"run/default/w{number}/")
            assert [one.body for one in held] == [document(f"w{number}", seq).body for seq in range(1, EACH + 1)]
        assert len(await store.journal.unsent()) == len(set(written)) == WRITERS * EACH


async def test_nobody_waits_longer_than_the_deadline_for_a_paused_server(own_server: Start) -> None:
    server = await asyncio.to_thread(own_server, "mongo")
    assert isinstance(server, MongoServer)
    async with opened(mongo_settings(server, timeout_s=TIMEOUT_S)) as store:
        await patiently(store.probe)
        keys = [document(f"p{number}").key for number in range(20)]
        actions: list[Callable[[], Awaitable[object]]] = [
            lambda: store.journal.append_many([document("a"), document("b")]),
            lambda: store.journal.append_many([document("c")]),
            lambda: store.journal.get(document("a").key),
            lambda: store.journal.read("run/default/a/"),
            store.journal.unsent,
            lambda: store.journal.mark_sent(keys),
            lambda: store.views.upsert([Row("runs", "default", "a", 1, "a", b"{}")]),
            lambda: store.views.page("runs", "default"),
            lambda: store.views.changed("runs", "default", "a", 1),
            lambda: store.leases.put(Lease("node-1", 1, 30.0)),
            store.leases.all,
            store.probe,
        ]
        await asyncio.to_thread(server.handle().pause)
        try:
            took = await asyncio.gather(*(lasted(action) for action in actions * 6))
            assert await store.check() is not None
        finally:
            await asyncio.to_thread(server.handle().unpause)
        assert max(took) <= TIMEOUT_S + LOADED_S
        await patiently(lambda: store.journal.append_many([document("after")]))
        assert await store.check() is None


async def lasted(action: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    with pytest.raises((Unavailable, OutcomeUnknownError)):
        await action()
    return time.perf_counter() - began


async def test_a_store_that_is_not_there_is_unavailable_and_nothing_was_written(mongo_server: MongoServer) -> None:
    async with opened(mongo_settings(mongo_server, hosts="127.0.0.1:9", timeout_s=TIMEOUT_S)) as store:
        with pytest.raises(Unavailable) as failed:
            await store.journal.append_many([document("a")])
        assert failed.value.code == "store_unavailable"
        said = await store.check()
        assert said is not None
        assert said.startswith("store_unavailable")


# --- the answer is lost, the document is not


@pytest.fixture
async def lossy(mongo_server: MongoServer) -> AsyncIterator[tuple[MongoStore, TcpProxy]]:
    """A store behind a way back that can be cut."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(mongo_server.host).open())
        settings = mongo_settings(mongo_server, hosts=proxy.host, timeout_s=TIMEOUT_S)
        store = await stack.enter_async_context(opened(settings))
        await store.probe()
        yield store, proxy
        proxy.drop_answer = lambda _request: False
        await store.drop()


def losing(times: int, word: bytes) -> Callable[[bytes], bool]:
    """Return what loses the answers to the first requests with a word in them."""
    left = [times]

    def drop(request: bytes) -> bool:
        hit = word in request and left[0] > 0
        left[0] -= hit
        return hit

    return drop


async def test_an_insert_whose_answer_is_lost_is_of_unknown_outcome(lossy: tuple[MongoStore, TcpProxy]) -> None:
    store, proxy = lossy
    proxy.drop_answer = losing(1, b"insert")
    with pytest.raises(OutcomeUnknownError):
        await store.journal.append_many([document("a")])
    assert await store.journal.append_many([document("a")]) == [Verdict.DUPLICATE]
    assert await store.journal.get(document("a").key) == document("a")


async def test_a_writer_settles_an_insert_whose_answer_is_lost(lossy: tuple[MongoStore, TcpProxy]) -> None:
    store, proxy = lossy
    proxy.drop_answer = losing(2, b"insert")
    effect, answer = document("a"), Document("answers/default/request-1", b'{"id":"1"}')
    assert await writer(store).append([effect, answer]) == [Verdict.INSERTED] * 2
    assert proxy.dropped == 2
    assert await store.journal.get(effect.key) == effect
    assert await store.journal.get(answer.key) is not None
    assert [one.key for one in await store.journal.unsent()] == [effect.key]


async def test_a_writer_whose_insert_was_lost_to_another_is_told_so(lossy: tuple[MongoStore, TcpProxy]) -> None:
    store, proxy = lossy
    await store.journal.append_many([document("a")])
    proxy.drop_answer = losing(1, b"insert")
    other = Document(document("a").key, b'{"id":"other"}', "cloche.runs", "run/default/a")
    assert await writer(store).append([other, document("b")]) == [Verdict.DUPLICATE, Verdict.SKIPPED]
    assert await store.journal.get(document("b").key) is None


async def test_a_mark_whose_answer_is_lost_is_made_again(lossy: tuple[MongoStore, TcpProxy]) -> None:
    store, proxy = lossy
    await store.journal.append_many([document("a"), document("b")])
    proxy.drop_answer = losing(1, b"update")
    with pytest.raises(OutcomeUnknownError):
        await store.journal.mark_sent([document("a").key, document("b").key])
    await store.journal.mark_sent([document("a").key, document("b").key])
    assert await store.journal.unsent() == []


async def test_a_read_whose_answer_is_lost_is_tried_again_or_unavailable(lossy: tuple[MongoStore, TcpProxy]) -> None:
    store, proxy = lossy
    await store.journal.append_many([document("a")])
    proxy.drop_answer = losing(1, b"find")
    with pytest.raises(Unavailable):
        await store.journal.get(document("a").key)
    assert await store.journal.get(document("a").key) is not None
