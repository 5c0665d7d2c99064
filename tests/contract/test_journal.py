"""What every adapter of the port Journal promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche_shared.adapters.file_blobs import FileBlobStore
from cloche_shared.adapters.memory_blobs import MemoryBlobStore
from cloche_shared.adapters.memory_journal import MemoryJournal
from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.journal.large import LargeJournal
from cloche_shared.ports.journal import Document, Journal, Verdict
from tests.environments.mongo import mongo_store

INSERTED, DUPLICATE, SKIPPED = Verdict.INSERTED, Verdict.DUPLICATE, Verdict.SKIPPED


def document(name: str, seq: int = 1, body: bytes = b"{}", topic: str = "cloche.runs") -> Document:
    return Document(f"run/default/{name}/{seq:012d}", body, topic, f"run/default/{name}")


@pytest.fixture(params=["sqlite", "memory", "memory not atomic", "large on sqlite", "large in memory", "mongo"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    if request.param == "mongo":
        async with mongo_store(request.getfixturevalue("mongo_server")) as store:
            yield store.journal
    elif request.param.endswith("sqlite"):
        file = await SqliteFile.open(tmp_path / "cloche.db")
        blobs = FileBlobStore(tmp_path / "blobs")
        plain = file.journal("runner")
        yield LargeJournal(plain, blobs, "runner") if request.param.startswith("large") else plain
        await file.close()
    elif request.param.startswith("large"):
        yield LargeJournal(MemoryJournal(), MemoryBlobStore(), "runner")
    else:
        yield MemoryJournal(atomic=request.param == "memory")


async def test_what_is_appended_reads_back(journal: Journal) -> None:
    assert await journal.append_many([document("a", body=b'{"n":1}')]) == [INSERTED]
    assert await journal.get("run/default/a/000000000001") == document("a", body=b'{"n":1}')


async def test_a_document_of_any_length_reads_back_byte_for_byte(journal: Journal) -> None:
    fact = {"type": "cloche.RunSubmitted.v1", "data": {"text": 'Ünï\u2028 {"$blob": 1}' * 20_000, "number": 1.5e-7}}
    long = document("a", body=orjson.dumps({"id": "1", "facts": [fact, fact], "outcome": {"json": fact}}))
    assert await journal.append_many([long, document("b")]) == [INSERTED, INSERTED]
    assert await journal.get(long.key) == long
    assert await journal.read("run/default/a/") == [long]
    assert [one.key for one in await journal.unsent()] == [long.key, document("b").key]
    assert (await journal.unsent())[0].body == long.body
    assert await journal.append_many([long]) == [DUPLICATE]


async def test_an_absent_key_reads_as_none(journal: Journal) -> None:
    assert await journal.get("run/default/a/000000000001") is None


async def test_appending_nothing_is_harmless(journal: Journal) -> None:
    assert await journal.append_many([]) == []


async def test_a_held_key_stays_as_it_is(journal: Journal) -> None:
    await journal.append_many([document("a", body=b"first")])
    assert await journal.append_many([document("a", body=b"second")]) == [DUPLICATE]
    held = await journal.get(document("a").key)
    assert held is not None
    assert held.body == b"first"


async def test_an_append_stops_at_the_first_held_key_and_keeps_what_stood_before_it(journal: Journal) -> None:
    await journal.append_many([document("held")])
    batch = [document("before"), document("held"), document("behind")]
    assert await journal.append_many(batch) == [INSERTED, DUPLICATE, SKIPPED]
    assert await journal.get(batch[0].key) == batch[0]
    assert await journal.get(batch[2].key) is None


async def test_a_key_twice_in_one_append_is_a_duplicate(journal: Journal) -> None:
    assert await journal.append_many([document("a"), document("a"), document("b")]) == [INSERTED, DUPLICATE, SKIPPED]


async def test_of_many_writers_of_one_key_exactly_one_wins(journal: Journal) -> None:
    calls = (journal.append_many([document("a", body=str(number).encode())]) for number in range(64))
    verdicts = [verdict for (verdict,) in await asyncio.gather(*calls)]
    held = await journal.get(document("a").key)
    assert verdicts.count(INSERTED) == 1
    assert held is not None
    assert held.body == str(verdicts.index(INSERTED)).encode()


async def test_a_duplicate_of_one_caller_does_not_touch_its_neighbours_in_the_same_commit(journal: Journal) -> None:
    await journal.append_many([document("held")])
    calls = [journal.append_many([document(f"n{number}"), document(f"m{number}")]) for number in range(200)]
    calls.insert(100, journal.append_many([document("held"), document("never")]))
    verdicts = await asyncio.gather(*calls)
    assert verdicts.pop(100) == [DUPLICATE, SKIPPED]
    assert all(verdict == [INSERTED, INSERTED] for verdict in verdicts)
    assert await journal.get(document("never").key) is None


async def test_a_prefix_reads_in_key_order_and_in_pages(journal: Journal) -> None:
    await journal.append_many([document("a", seq) for seq in (3, 1, 2)] + [document("ab"), document("b")])
    first = await journal.read("run/default/a/", limit=2)
    rest = await journal.read("run/default/a/", after=first[-1].key, limit=2)
    assert [item.key[-1] for item in (*first, *rest)] == ["1", "2", "3"]


async def test_a_prefix_is_text_and_no_pattern(journal: Journal) -> None:
    await journal.append_many([document("a%"), document("a_"), document("ab")])
    assert [item.partition_key for item in await journal.read("run/default/a%")] == ["run/default/a%"]


async def test_names_in_any_script_are_found_by_their_prefix(journal: Journal) -> None:
    await journal.append_many([document("über"), document("\U0001f514")])
    assert len(await journal.read("run/default/")) == 2
    assert len(await journal.read("run/default/\U0001f514/")) == 1


async def test_unsent_are_the_documents_with_a_topic_that_were_not_marked(journal: Journal) -> None:
    kept = [document("a", 1), document("b", 1), document("a", 2)]
    await journal.append_many([*kept[:2], document("quiet", topic=""), kept[2]])
    await journal.mark_sent([kept[1].key])
    assert await journal.unsent() == [kept[0], kept[2]]
    await journal.mark_sent([kept[0].key])
    assert await journal.unsent() == [kept[2]]
    await journal.mark_sent([kept[2].key, "run/default/absent/000000000001"])
    assert await journal.unsent() == []


async def test_a_document_tells_whether_it_was_sent(journal: Journal) -> None:
    await journal.append_many([document("a", 1), document("a", 2)])
    await journal.mark_sent([document("a", 2).key])
    assert [item.sent for item in await journal.read("run/default/a/")] == [False, True]
    await journal.mark_sent([document("a", 1).key])
    first = await journal.get(document("a", 1).key)
    assert first is not None
    assert first.sent


async def test_new_documents_are_unsent_after_all_older_ones_were_marked(journal: Journal) -> None:
    await journal.append_many([document("a", 1)])
    await journal.mark_sent([document("a", 1).key])
    await journal.append_many([document("a", 2)])
    assert [item.key for item in await journal.unsent()] == [document("a", 2).key]


async def test_unsent_comes_oldest_first_and_bounded(journal: Journal) -> None:
    await journal.append_many([document("a", seq) for seq in range(1, 11)])
    assert [item.key for item in await journal.unsent(3)] == [document("a", seq).key for seq in (1, 2, 3)]


async def test_a_large_batch_is_inserted_whole(journal: Journal) -> None:
    batch = [document("a", seq, body=b"x" * 200) for seq in range(1, 1001)]
    assert await journal.append_many(batch) == [INSERTED] * 1000
    assert len(await journal.read("run/default/a/", limit=2000)) == 1000


names = st.sampled_from("abcd")
calls_of_names = st.lists(st.lists(names, min_size=1, max_size=4), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(calls=calls_of_names)
def test_concurrent_appends_are_equal_to_some_order_of_them(
    calls: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each key is inserted once, and each call has the form inserted…, then at most one duplicate, then skipped."""

    async def history() -> list[list[Verdict]]:
        file = await SqliteFile.open(tmp_path_factory.mktemp("law") / "cloche.db", services=["runner"])
        journal = file.journal("runner")
        found = await asyncio.gather(*(journal.append_many([document(name) for name in call]) for call in calls))
        await file.close()
        return found

    verdicts = asyncio.run(history())
    pairs = [pair for call, said in zip(calls, verdicts, strict=True) for pair in zip(call, said, strict=True)]
    winners = [name for name, verdict in pairs if verdict is INSERTED]
    assert len(winners) == len(set(winners))
    assert {name for name, verdict in pairs if verdict is DUPLICATE} <= set(winners)
    for said in verdicts:
        end = said.index(DUPLICATE) if DUPLICATE in said else len(said)
        assert said == [INSERTED] * end + [DUPLICATE] * (end < len(said)) + [SKIPPED] * (len(said) - end - 1)
