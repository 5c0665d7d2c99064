"""The journal's kernel: one change, one document, one answer."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from pydantic import BaseModel, ConfigDict

from cloche_shared.adapters.memory_faults import NoFaults
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import ApiKeyRevoked, CommandRefused, EnvironmentLabeled, ProjectCreated
from cloche_shared.contracts.references import Problem
from cloche_shared.errors import Conflict
from cloche_shared.journal.commit import Actor, Origin, StreamId, written
from cloche_shared.journal.snapshots import SNAPSHOT_EVERY
from cloche_shared.journal.streams import Decision, Kind, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.journal import Document, OutcomeUnknownError


class Counter(BaseModel):
    model_config = ConfigDict(frozen=True)
    count: int = 0


def evolve(state: Counter, fact: Fact) -> Counter:
    return Counter(count=state.count + 1) if isinstance(fact, ProjectCreated | EnvironmentLabeled) else state


KIND = Kind("access", Counter, evolve)
STREAM = StreamId("access", "default", "keys")


def streams(
    store: MemoryStore, *, atomic: bool = True, faults: NoFaults | None = None, **options: bool
) -> Streams[Counter]:
    journal = MemoryJournal(store, atomic=atomic, faults=faults or NoFaults())
    return Streams(KIND, Writer(journal, SystemClock(), SystemRandom(), settle_delays=(0.0,) * 200), **options)


def origin(request_id: str = "") -> Origin:
    return Origin(
        Actor("key:test"), correlation="c", request_id=request_id, reply_to="run/default/r" if request_id else ""
    )


def count_up(state: Counter) -> Decision:
    return Decision([ProjectCreated()], json={"count": state.count + 1})


async def test_each_change_is_the_next_document_of_its_stream() -> None:
    store = MemoryStore()
    ours = streams(store)
    for expected in (1, 2, 3):
        assert (await ours.change(STREAM, origin(), count_up)).seq == expected
    assert list(store.documents) == [STREAM.key(seq) for seq in (1, 2, 3)]


async def test_what_a_service_does_by_itself_is_caused_by_what_the_stream_held_last() -> None:
    store = MemoryStore()
    ours = streams(store)
    by_itself = replace(origin(), follows=True)
    for one in (origin(), by_itself, replace(by_itself, cause="other#0")):
        await ours.change(STREAM, one, count_up)
    causes = [written(document).cause for document in store.documents.values()]
    assert causes == ["", f"{STREAM.key(1)}#0", "other#0"]


async def test_writers_with_stale_caches_lose_nothing() -> None:
    store = MemoryStore()
    writers = [streams(store) for _ in range(8)]
    changes = [writer.change(STREAM, origin(), count_up) for writer in writers for _ in range(20)]
    seqs = sorted(changed.seq for changed in await asyncio.gather(*changes))
    assert seqs == list(range(1, 161))
    assert (await writers[0].get(STREAM)).state.count == 160


async def test_a_decision_on_a_stale_present_is_taken_again() -> None:
    store = MemoryStore()
    first, second = streams(store), streams(store)

    def only_once(state: Counter) -> Decision:
        if state.count:
            raise Conflict("taken", "Taken.")
        return Decision([ProjectCreated()])

    await second.get(STREAM)
    await first.change(STREAM, origin(), only_once)
    with pytest.raises(Conflict, match="Taken"):
        await second.change(STREAM, origin(), only_once)
    assert len(store.documents) == 1


async def test_a_refusal_on_a_stale_present_is_taken_again() -> None:
    store = MemoryStore()
    first, second = streams(store), streams(store)

    def needs_one(state: Counter) -> Decision:
        if not state.count:
            raise Conflict("absent", "Absent.")
        return Decision([ProjectCreated()])

    with pytest.raises(Conflict, match="Absent"):
        await second.change(STREAM, origin(), needs_one)
    await first.change(STREAM, origin(), count_up)
    assert (await second.change(STREAM, origin(), needs_one)).seq == 2


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_request_acts_once_whoever_handles_it_again(atomic: bool) -> None:
    store = MemoryStore()
    first, second = streams(store, atomic=atomic), streams(store, atomic=atomic)
    done = await first.change(STREAM, origin("request"), count_up)
    again = await second.change(STREAM, origin("request"), count_up)
    assert (done.replayed, again.replayed) == (False, True)
    assert again.outcome is not None
    assert again.outcome.json == {"count": 1}
    assert (await second.get(STREAM)).state.count == 1


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("new", [False, True])
async def test_a_repeated_request_is_answered_with_what_it_acted_on_whoever_handles_it(
    *, exclusive: bool, new: bool
) -> None:
    store = MemoryStore()
    first, second = streams(store), streams(store, exclusive=exclusive)
    await first.change(STREAM, origin("request"), count_up)
    again = await second.change(STREAM, origin("request"), count_up, new=new)
    assert (again.replayed, again.seq, again.state.count) == (True, 1, 1)
    if not exclusive:
        await first.change(STREAM, origin(), count_up)
        again = await second.change(STREAM, origin("request"), count_up, new=new)
        assert (again.replayed, again.seq, again.state.count) == (True, 2, 2)


async def test_the_same_request_at_once_in_two_processes_acts_once() -> None:
    for seed in range(50):
        store = MemoryStore()
        writers = [streams(store, atomic=False, faults=Jitter(seed * 10 + number)) for number in range(4)]
        done = await asyncio.gather(*(writer.change(STREAM, origin("request"), count_up) for writer in writers))
        assert [changed.replayed for changed in done].count(False) == 1
        assert (await streams(store).get(STREAM)).state.count == 1


async def test_an_effect_whose_answer_was_lost_is_not_repeated() -> None:
    store = MemoryStore()
    with pytest.raises(OutcomeUnknownError):
        await MemoryJournal(store, atomic=False, faults=KeepOne()).append_many(await _effect_and_answer())
    assert list(store.documents) == [STREAM.key(1)]
    again = await streams(store, atomic=False).change(STREAM, origin("request"), count_up)
    assert again.replayed
    assert len([key for key in store.documents if key.startswith("access/")]) == 1


async def test_another_request_under_the_same_key_is_refused() -> None:
    ours = streams(MemoryStore())
    await ours.change(STREAM, origin("key"), count_up, fingerprint="a")
    with pytest.raises(Conflict) as refused:
        await ours.change(STREAM, origin("key"), count_up, fingerprint="b")
    assert refused.value.code == "idempotency_key_reused"


async def test_a_request_that_changes_nothing_is_answered_once() -> None:
    store = MemoryStore()
    ours = streams(store)
    refusal = CommandRefused(problem=Problem(code="no", message="No."))
    for replayed in (False, True):
        changed = await ours.change(STREAM, origin("ask"), lambda _: Decision(answer=refusal))
        assert changed.replayed is replayed
    assert list(store.documents) == ["answers/default/ask"]
    commit = written(store.documents["answers/default/ask"])
    assert commit.reply_to == "run/default/r"
    assert commit.facts[0][0] == "cloche.CommandRefused.v1"


async def test_unknown_outcomes_are_settled_by_the_same_document() -> None:
    for seed in range(40):
        store = MemoryStore()
        writers = [streams(store, atomic=False, faults=Unsure(seed * 7 + number)) for number in range(3)]

        changes = [writer.change(STREAM, origin(), count_up) for writer in writers for _ in range(5)]
        seqs = sorted(changed.seq for changed in await asyncio.gather(*changes))
        assert seqs == list(range(1, 16))


async def test_a_canceled_change_leaves_no_stale_head_behind() -> None:
    store = MemoryStore()
    slow = Slow()
    ours = streams(store, faults=slow, exclusive=True)
    await ours.change(STREAM, origin(), count_up)
    slow.hold = asyncio.Event()
    task = asyncio.create_task(ours.change(STREAM, origin(), count_up))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    slow.hold = None
    assert (await ours.get(STREAM)).seq == len(store.documents) == 2


async def test_long_streams_load_from_their_newest_snapshot() -> None:
    store = MemoryStore()
    ours = streams(store)
    total = 3 * SNAPSHOT_EVERY + 7
    for _ in range(total):
        await ours.change(STREAM, origin(), count_up)
    for seq in range(1, 3 * SNAPSHOT_EVERY - 600):
        del store.documents[STREAM.key(seq)]
    store.keys = sorted(store.documents)
    present = await streams(store).get(STREAM)
    assert (present.seq, present.state.count) == (total, total)


async def test_a_lost_snapshot_is_written_again_by_the_next_load() -> None:
    store = MemoryStore()
    ours = streams(store)
    for _ in range(2 * SNAPSHOT_EVERY + 5):
        await ours.change(STREAM, origin(), count_up)
    snapshots = [key for key in store.documents if key.startswith("access.snapshot/")]
    for key in snapshots:
        del store.documents[key]
    store.keys = sorted(store.documents)
    assert (await streams(store).get(STREAM)).state.count == 2 * SNAPSHOT_EVERY + 5
    assert [key for key in store.documents if key.startswith("access.snapshot/")] == snapshots


async def test_a_snapshot_that_does_not_fit_any_more_is_passed_over() -> None:
    store = MemoryStore()
    ours = streams(store)
    for _ in range(SNAPSHOT_EVERY + 5):
        await ours.change(STREAM, origin(), count_up)
    key = next(key for key in store.documents if key.startswith("access.snapshot/"))
    store.documents[key] = Document(key, store.documents[key].body.replace(b'"count":', b'"count":"many","was":'))
    assert (await streams(store).get(STREAM)).state.count == SNAPSHOT_EVERY + 5


async def test_requests_before_a_snapshot_act_once_too() -> None:
    store = MemoryStore()
    ours = streams(store, atomic=False)
    await ours.change(STREAM, origin("early"), count_up)
    del store.documents["answers/default/early"]
    store.keys = sorted(store.documents)
    for _ in range(SNAPSHOT_EVERY + 5):
        await ours.change(STREAM, origin(), count_up)
    again = await streams(store, atomic=False).change(STREAM, origin("early"), count_up)
    assert again.replayed


async def test_facts_of_a_newer_version_do_not_stop_a_stream() -> None:
    store = MemoryStore()
    ours = streams(store)
    await ours.change(STREAM, origin(), lambda _: Decision([ApiKeyRevoked(key_id="k"), ProjectCreated()]))
    document = store.documents[STREAM.key(1)]
    newer = document.body.replace(b"cloche.ApiKeyRevoked.v1", b"cloche.ApiKeyRevoked.v9")
    store.documents[STREAM.key(1)] = Document(document.key, newer)
    assert (await streams(store).get(STREAM)).state.count == 1


async def _effect_and_answer() -> Sequence[Document]:
    store = MemoryStore()
    await streams(store).change(STREAM, origin("request"), count_up)
    return list(store.documents.values())


class Jitter(NoFaults):
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def before(self, call: str) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)


class KeepOne(NoFaults):
    def kept(self, count: int) -> int:
        return 1


class Unsure(Jitter):
    async def after(self, call: str) -> None:
        if call == "append_many" and self._random.random() < 0.4:
            raise OutcomeUnknownError("the answer was lost")


class Slow(NoFaults):
    hold: asyncio.Event | None = None

    async def after(self, call: str) -> None:
        if call == "append_many" and self.hold is not None:
            await self.hold.wait()


@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_wrong_guess_that_a_stream_is_new_costs_a_round_only(*, exclusive: bool) -> None:
    store = MemoryStore()
    for _ in range(3):
        await streams(store).change(STREAM, origin(), count_up)
    restarted = streams(store, exclusive=exclusive)
    changed = await restarted.change(STREAM, origin("r"), count_up, new=True)
    assert (changed.seq, changed.state.count) == (4, 4)
    again = await restarted.change(STREAM, origin("r"), count_up, new=True)
    assert again.replayed
