"""The writer: what it does while a store does not say whether it wrote."""

import asyncio

import pytest

from cloche_shared.adapters.memory_faults import NoFaults
from cloche_shared.adapters.memory_journal import MemoryJournal, MemoryStore
from cloche_shared.adapters.system_clock import SystemClock
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.errors import Unavailable
from cloche_shared.journal.writer import SETTLE_WITHIN, Writer
from cloche_shared.ports.journal import Document, OutcomeUnknownError, Verdict

EFFECT, ANSWER = Document("run/default/a/000000000001", b"effect"), Document("answers/default/k", b"answer")


class Scripted(NoFaults):
    """Says of each insert in turn that it is unknown whether it was done (`lost` before, `written` after it)."""

    def __init__(self, *script: str) -> None:
        self._script = list(script)
        self._now = ""

    async def before(self, call: str) -> None:
        self._now = self._script.pop(0) if call == "append_many" and self._script else ""
        if self._now == "lost":
            raise OutcomeUnknownError
        if self._now == "down":
            raise Unavailable("store_unavailable", "The store does not answer.")

    async def after(self, call: str) -> None:
        if call == "append_many" and self._now == "written":
            raise OutcomeUnknownError


def writer(store: MemoryStore, *script: str, atomic: bool = True) -> Writer:
    journal = MemoryJournal(store, atomic=atomic, faults=Scripted(*script))
    return Writer(journal, SystemClock(), SystemRandom(), settle_delays=(0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    "script", [("lost", "lost"), ("written",), ("lost", "written"), ("lost", "written", "written")]
)
@pytest.mark.parametrize("atomic", [True, False])
async def test_what_it_inserted_itself_counts_as_inserted(script: tuple[str, ...], atomic: bool) -> None:
    store = MemoryStore()
    verdicts = await writer(store, *script, atomic=atomic).append([EFFECT, ANSWER])
    assert verdicts == [Verdict.INSERTED, Verdict.INSERTED]
    assert list(store.documents) == [EFFECT.key, ANSWER.key]


async def test_an_effect_is_never_inserted_without_its_answer_where_both_are_written_together() -> None:
    store = MemoryStore()
    ours = writer(store, "lost", "", "down")
    assert await ours.append([EFFECT, ANSWER]) == [Verdict.INSERTED, Verdict.INSERTED]
    assert list(store.documents) == [EFFECT.key, ANSWER.key]


async def test_a_key_that_another_holds_is_a_duplicate_and_what_stands_behind_it_is_skipped() -> None:
    store = MemoryStore()
    store.insert(Document(EFFECT.key, b"another's"))
    assert await writer(store, "lost").append([EFFECT, ANSWER]) == [Verdict.DUPLICATE, Verdict.SKIPPED]


async def test_what_stands_before_anothers_document_stays_its_own() -> None:
    store = MemoryStore()
    store.insert(Document(ANSWER.key, b"another's"))
    assert await writer(store, "written").append([EFFECT, ANSWER]) == [Verdict.INSERTED, Verdict.DUPLICATE]


async def test_a_store_that_never_says_is_unavailable() -> None:
    with pytest.raises(Unavailable) as caught:
        await writer(MemoryStore(), *["lost"] * 9).append([EFFECT, ANSWER])
    assert caught.value.code == "store_unavailable"


class Held(NoFaults):
    """A store that is held: each call ends at its own deadline, and nobody knows what it did."""

    async def before(self, call: str) -> None:
        await asyncio.sleep(5.0)
        raise OutcomeUnknownError


@pytest.mark.looptime
async def test_nobody_waits_for_a_held_store_longer_than_one_deadline_and_the_time_to_settle() -> None:
    held = Writer(MemoryJournal(MemoryStore(), faults=Held()), SystemClock(), SystemRandom())
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable):
        await held.append([EFFECT])
    assert asyncio.get_running_loop().time() - began <= 5.0 + SETTLE_WITHIN
