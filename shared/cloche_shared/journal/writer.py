"""Writer: inserts documents until it is sure, and hands them to whoever sends them on."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC

from cloche_shared.contracts.fact import Fact
from cloche_shared.errors import Unavailable
from cloche_shared.journal.answers import Outcome, answer_document, answer_key
from cloche_shared.journal.commit import Commit, Origin, StreamId, Written, written
from cloche_shared.ports.journal import Document, Journal, OutcomeUnknownError, Verdict
from cloche_shared.ports.platform import Clock, Random

SETTLE_DELAYS = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds between tries while a store does not say whether it wrote."""
SETTLE_WITHIN = 8.0
"""Seconds that all tries together may take, however slow each is: somebody waits for an answer."""


class Writer:
    """One service's hand at its journal.

    `offer` gets every document that was just inserted, so that nothing polls on the way out; it is
    None where the bus reads the journal itself.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        random: Random,
        *,
        offer: Callable[[Sequence[Document]], None] | None = None,
        settle_delays: Sequence[float] = SETTLE_DELAYS,
    ) -> None:
        self.journal = journal
        self._clock = clock
        self._random = random
        self._offer = offer
        self._settle_delays = settle_delays

    @property
    def atomic(self) -> bool:
        """Whether effect and answer are written together."""
        return self.journal.atomic

    def now(self) -> str:
        """Return the time for a record (RFC 3339, UTC, microseconds)."""
        return self._clock.now().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def unique(self) -> str:
        """Return an id that nobody else has."""
        return self._random.uuid7()

    async def append(self, documents: Sequence[Document]) -> list[Verdict]:
        """Insert in order; an own document that is found under its key counts as inserted."""
        verdicts = await self._settle(documents)
        inserted = [
            document for document, verdict in zip(documents, verdicts, strict=True) if verdict is Verdict.INSERTED
        ]
        if inserted and self._offer is not None:
            self._offer(inserted)
        return verdicts

    async def _settle(self, documents: Sequence[Document]) -> list[Verdict]:
        try:
            return await self.journal.append_many(documents)
        except OutcomeUnknownError:
            pass
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_WITHIN):
                for delay in self._settle_delays:
                    await asyncio.sleep(delay)
                    with contextlib.suppress(OutcomeUnknownError):
                        return await self._again(documents)
        raise Unavailable(
            "store_unavailable",
            "The store does not say whether it wrote.",
            todo="Send the same request again, with the same Idempotency-Key.",
        )

    async def _again(self, documents: Sequence[Document]) -> list[Verdict]:
        """Insert all that is left in one call, as the first time; compare bytes where a key is held.

        One by one, a crash could come between an effect and its answer, which an atomic store never shows.
        """
        verdicts: list[Verdict] = []
        while len(verdicts) < len(documents):
            rest = documents[len(verdicts) :]
            found = await self.journal.append_many(rest)
            inserted = found.count(Verdict.INSERTED)
            verdicts += found[:inserted]
            if inserted < len(rest):
                verdicts.append(await self._whose(rest[inserted]))
                if verdicts[-1] is Verdict.DUPLICATE:
                    break
        return verdicts + [Verdict.SKIPPED] * (len(documents) - len(verdicts))

    async def _whose(self, document: Document) -> Verdict:
        """Tell whether a key is held by this very document."""
        held = await self.journal.get(document.key)
        return Verdict.INSERTED if held is not None and held.body == document.body else Verdict.DUPLICATE

    async def answered(self, project: str, request_id: str) -> Outcome | None:
        """Return what a request was answered, if it was."""
        document = await self.journal.get(answer_key(project, request_id))
        if document is None:
            return None
        return Outcome.from_json(written(document).outcome or {})

    async def answer(self, project: str, origin: Origin, outcome: Outcome) -> Outcome:
        """Answer a request that changed nothing; return what it was answered first (`outcome` itself if now)."""
        commit = Commit(self.unique(), (), origin, self.now(), outcome.to_json())
        effect: Written = written(Document(StreamId("answers", project, "-").key(1), commit.body()))
        document = answer_document(effect)
        if document is None:
            return outcome
        verdict = (await self.append([document]))[0]
        if verdict is Verdict.INSERTED:
            return outcome
        return await self.answered(project, origin.request_id) or outcome

    async def reply(self, project: str, origin: Origin, answer: Fact) -> None:
        """Answer whoever asked by message; harmless when it was answered already."""
        await self.answer(project, origin, Outcome(answer))
