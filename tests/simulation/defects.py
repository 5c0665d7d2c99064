"""Six defects that the simulation must be able to find, planted into the running code for one history.

Each is what a plausible mistake would do: a check left out, two steps in the wrong order.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cloche_registry.domain import environments
from cloche_registry.domain.environments import Environment, EnvironmentVersion
from cloche_runner.domain import run_decisions
from cloche_runner.domain.runs import Run
from cloche_shared.contracts.facts import TOPICS, AttemptClaimed
from cloche_shared.errors import Conflict
from cloche_shared.journal.answers import Outcome, answer_document
from cloche_shared.journal.commit import Commit, Origin, StreamId, written
from cloche_shared.journal.streams import Changed, Decision, Present, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.journal import Document, Verdict


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def no_fence_check() -> contextlib.AbstractContextManager[None]:
    """Whoever once held a run may go on, also when it was declared lost."""

    def hold(run: Run, fence: int) -> None:
        if not run.is_held:
            raise Conflict("stale_fence", "Nobody holds the run.")

    return _replaced(run_decisions, "hold", hold)


def publish_before_insert() -> contextlib.AbstractContextManager[None]:
    """Documents are handed to the relay before the store has them."""

    async def append(self: Writer, documents: Sequence[Document]) -> list[Verdict]:
        if self._offer is not None:
            self._offer(documents)
        return await self._settle(documents)

    return _replaced(Writer, "append", append)


def no_dedupe() -> contextlib.AbstractContextManager[None]:
    """A request that comes again acts again."""

    async def known(self: Streams[Any], stream: StreamId, origin: Origin, present: Present[Any]) -> None:
        return None

    return _replaced(Streams, "_known", known)


def stale_head() -> contextlib.AbstractContextManager[None]:
    """After a duplicate key, what was decided is inserted behind the newer head without deciding again."""

    async def insert(
        self: Streams[Any],
        stream: StreamId,
        origin: Origin,
        present: Present[Any],
        facts: tuple[Any, ...],
        outcome: Outcome | None,
    ) -> Changed[Any]:
        said = outcome.to_json() if outcome is not None else None
        while True:
            commit = Commit(self._writer.unique(), facts, origin, self._writer.now(), said)
            effect = Document(stream.key(present.seq + 1), commit.body(), TOPICS[self.kind.name], str(stream))
            answer = answer_document(written(effect)) if outcome is not None else None
            verdicts = await self._writer.append([effect] if answer is None else [effect, answer])
            present = await self._catch_up(stream, present)
            if verdicts[0] is Verdict.INSERTED:
                return Changed(stream, present.state, present.seq, facts, outcome)

    return _replaced(Streams, "_insert", insert)


def skipped_version() -> contextlib.AbstractContextManager[None]:
    """A version that comes with a run or service takes the number after the next."""
    decide = environments.decide_inline

    def decide_inline(state: Environment, name: str, version: EnvironmentVersion) -> Any:
        facts, found = decide(state, name, version)
        skipped = [
            fact.model_copy(update={"environment_version": fact.environment_version + 1})
            if fact.environment_version > 1
            else fact
            for fact in facts
        ]
        return skipped, found

    return _replaced(environments, "decide_inline", decide_inline)


def double_claim() -> contextlib.AbstractContextManager[None]:
    """A claim does not look whether the run still waits."""

    def decide_claim(run: Run, node: str, attempt: int, gpus: tuple[str, ...]) -> Decision:
        return Decision([AttemptClaimed(attempt=attempt, node=node, gpus=gpus)])

    return _replaced(run_decisions, "decide_claim", decide_claim)


DEFECTS: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[None]], str]] = {
    "no fence check": (no_fence_check, "I5"),
    "publish before insert": (publish_before_insert, "I3"),
    "no dedupe": (no_dedupe, "I14"),
    "decision on a stale head": (stale_head, "I2"),
    "skipped version": (skipped_version, "I2"),
    "double claim": (double_claim, "I5"),
}
"""By name: what plants it, and the invariant that it breaks."""
