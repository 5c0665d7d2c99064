"""Relay: publishes what the journal holds, in order per stream, and marks it as sent.

The writer hands its documents over at once; a sweep finds what a crash left. Document n + 1 of a
stream goes out only after n is known to be with the bus, by whoever sends it; sending n again is
harmless.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

from cloche_shared.errors import Unavailable
from cloche_shared.journal.answers import answer_document
from cloche_shared.journal.commit import SEQUENCE_DIGITS, StreamId, events_of, written
from cloche_shared.ports.bus import Bus
from cloche_shared.ports.journal import Document, Journal, OutcomeUnknownError, Verdict

SEND_DEADLINE = 10.0
SWEEP_EVERY = 5.0
RETRY_DELAYS = (0.1, 0.3, 1.0, 3.0)
BATCH = 200
MOST_UNMARKED = 2_000
"""Documents that a crash makes the next relay send once more, at most."""
KNOWN_STREAMS = 50_000


class Relay:
    """One service's way from its journal to the bus.

    `answered` is called with stream and request id once a request's answer is known to be written.
    """

    def __init__(
        self,
        journal: Journal,
        bus: Bus,
        source: str,
        *,
        answered: Callable[[StreamId, str], None] = lambda _stream, _request: None,
    ) -> None:
        self._journal = journal
        self._bus = bus
        self._source = source
        self._answered = answered
        self._offered: dict[str, Document] = {}
        self._unmarked: dict[str, None] = {}
        """Keys of documents that the bus has, and whose mark is not known to be written."""
        self._wake = asyncio.Event()
        self._sent: OrderedDict[str, int] = OrderedDict()
        self._swept_at: float | None = None
        self.backlog_failures = 0

    def offer(self, documents: Sequence[Document]) -> None:
        """Take documents that were just inserted. Never waits; what does not get through is swept up."""
        self._offered.update((document.key, document) for document in documents if document.topic)
        self._wake.set()

    async def run(self) -> None:
        """Send for ever. A sweep that found as much as it takes at a time is followed by the next one at once."""
        failures = 0
        full = False
        while True:
            try:
                if full or self._is_sweep_due():
                    full = await self.sweep() >= BATCH
                await self.flush()
                failures = 0
                self._wake.clear()
                if not self._offered and not full:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), SWEEP_EVERY)
            except (Unavailable, OutcomeUnknownError, TimeoutError):
                self.backlog_failures += 1
                await asyncio.sleep(RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)])
                failures += 1

    async def sweep(self) -> int:
        """Take up what the journal holds unsent and the bus is not known to have; return how many documents that were.

        What only lacks its mark is read besides, lest it hide what is behind it.
        """
        unmarked = frozenset(self._unmarked)
        found = await self._journal.unsent(BATCH + len(unmarked))
        # what was marked while the journal was read is with the bus, too
        lost = [document for document in found if document.key not in unmarked | self._unmarked.keys()]
        self.offer(lost)
        self._swept_at = asyncio.get_running_loop().time()
        return len(lost)

    def _is_sweep_due(self) -> bool:
        return self._swept_at is None or asyncio.get_running_loop().time() - self._swept_at >= SWEEP_EVERY

    async def flush(self) -> None:
        """Send everything that was offered, and mark it. Raises when the bus or the store does not answer.

        What is offered meanwhile goes out while earlier documents are marked, unless marking falls far behind.
        Under steady load this does not end, so it sweeps when a sweep is due.
        """
        marking: asyncio.Task[None] | None = None
        try:
            while self._offered or self._unmarked:
                if self._is_sweep_due():
                    await self.sweep()
                if marking is None and self._unmarked:
                    marking = asyncio.create_task(self._mark_some(), name="relay-marks")
                if self._offered and len(self._unmarked) < MOST_UNMARKED:
                    await self._send_some()
                elif marking is not None:
                    await self._either(marking)
                if marking is not None and marking.done():
                    done, marking = marking, None
                    await done
        finally:
            if marking is not None:
                marking.cancel()
                await asyncio.gather(marking, return_exceptions=True)

    async def _either(self, marking: "asyncio.Task[None]") -> None:
        """Wait until something is marked or offered, or a sweep may be due."""
        self._wake.clear()
        offered = asyncio.create_task(self._wake.wait(), name="relay-offered")
        try:
            await asyncio.wait([marking, offered], timeout=SWEEP_EVERY, return_when=asyncio.FIRST_COMPLETED)
        finally:
            offered.cancel()
            await asyncio.gather(offered, return_exceptions=True)

    async def _send_some(self) -> None:
        batch = sorted(list(self._offered.values())[:BATCH], key=lambda document: document.key)
        keys = {document.key for document in batch}
        ready = [document for item in batch for document in await self._with_predecessors(item, keys)]
        unique = list({document.key: document for document in ready}.values())
        events = [event for document in unique for event in events_of(document, self._source)]
        async with asyncio.timeout(SEND_DEADLINE):
            await self._bus.publish(events)
        await self._settle_answers(unique)
        for document in unique:
            self._remember(document.key)
            self._unmarked[document.key] = None
            self._offered.pop(document.key, None)

    async def _mark_some(self) -> None:
        """Mark what the bus has for longest. A crash before it has no effect but that this is sent again."""
        keys = list(self._unmarked)[:BATCH]
        await self._journal.mark_sent(keys)
        for key in keys:
            self._unmarked.pop(key, None)

    async def _with_predecessors(self, document: Document, batch: set[str]) -> list[Document]:
        """Return the document behind those of its stream that are not known to be sent, nor in the batch before it."""
        stream, seq = _place(document.key)
        chain = [document]
        while seq > 1 and self._sent.get(stream, 0) < seq - 1:
            seq -= 1
            key = f"{stream}/{seq:0{SEQUENCE_DIGITS}d}"
            if key in batch:
                break
            before = await self._journal.get(key)
            if before is None or before.sent:
                break
            chain.append(before)
        return chain[::-1]

    async def _settle_answers(self, documents: Sequence[Document]) -> None:
        """Insert answers that a crash kept from being written, before their effects count as sent."""
        for document in documents:
            if document.key.startswith("answers/"):
                continue
            effect = written(document)
            answer = answer_document(effect)
            if answer is None:
                continue
            if not self._journal.atomic:
                [verdict] = await self._journal.append_many([answer])
                if verdict is Verdict.INSERTED:
                    # one that was there is another's, which may say something else, or is found by the sweep
                    self.offer([answer])
            self._answered(effect.stream, effect.request_id)

    def _remember(self, key: str) -> None:
        stream, seq = _place(key)
        self._sent[stream] = max(seq, self._sent.get(stream, 0))
        self._sent.move_to_end(stream)
        if len(self._sent) > KNOWN_STREAMS:
            self._sent.popitem(last=False)


def _place(key: str) -> tuple[str, int]:
    stream, _, tail = key.rpartition("/")
    numbered = tail.isdigit() and len(tail) == SEQUENCE_DIGITS and not key.startswith("answers/")
    return (stream, int(tail)) if numbered else (key, 1)
