"""A build: who waits for it, which builder holds it, what came of it.

    decide_request ──► waiters ──► decide_claim ──► claim ──► decide_end ──► owed ──► answered

The attempt number of a claim grows with each claim and is decided on the state, so it orders claims
exactly as the sequence numbers of their documents do; a result is taken only under the newest.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from cloche_shared.contracts.common import Lenient
from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import (
    ImageBuildFailed,
    ImageBuildStarted,
    ImageBuilt,
    ImageEvicted,
    ImageProvided,
    ImageRefused,
    ImageReleased,
    ImageRequested,
    Target,
)
from cloche_shared.contracts.references import Problem
from cloche_shared.errors import ClocheError, Conflict
from cloche_shared.journal.streams import Decision, Kind

MOST_LOST: Final = 4
"""Claims without a result after which a build is given up: it may be what kills its builders."""
KEPT_LOGS: Final = 20
KEPT_LOCKS: Final = 50

Last = Literal["", "built", "failed"]


class Waiter(Lenient):
    """A request that has no answer yet, and where the answer goes."""

    request_id: str
    reply_to: str
    project: str
    correlation: str
    refresh: bool = False


class Asker(Lenient):
    """A project that asked for the build, how it first named it, and when."""

    project: str
    environment: str = ""
    at: str = ""


class Claim(Lenient):
    """A builder's hold on the build. `solves`: it makes a new lock, else it restores the known one."""

    builder: str
    attempt: int
    solves: bool


class AttemptLog(Lenient):
    """The kept log of an attempt, by digest in the scope's blobs."""

    attempt: int
    digest: str


class Build(Lenient):
    """The state of `build/<scope>/<key>`.

    `lost` counts the claims since the last result. `owed` are those who waited for the last result;
    they are answered before the next claim. `last` is what that result was. Of an outlook the lock's digest
    is that of the packages that were chosen.
    """

    definition_hash: str = ""
    definition: Definition | None = None
    target: Target = "process"
    outlook: bool = False
    askers: tuple[Asker, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    owed: tuple[Waiter, ...] = ()
    claim: Claim | None = None
    claims: int = 0
    lost: int = 0
    last: Last = ""
    lock_digest: str = ""
    image: str = ""
    evicted: bool = False
    seconds: float = 0.0
    artefacts: int = 0
    bytes: int = 0
    locks: tuple[str, ...] = ()
    problem: Problem | None = None
    not_before: str = ""
    logs: tuple[AttemptLog, ...] = ()
    created_at: str = ""
    started_at: str = ""
    ended_at: str = ""

    @property
    def usable(self) -> bool:
        """Whether there is something to provide."""
        return bool(self.lock_digest) and not self.evicted

    @property
    def base(self) -> str:
        """The lock before the newest one; empty where there was none."""
        return self.locks[-2] if len(self.locks) > 1 else ""

    @property
    def is_open(self) -> bool:
        """Whether a builder has something to do here."""
        return bool(self.waiters) or self.claim is not None

    def asked_by(self, project: str) -> Asker | None:
        """Return the project's entry when it has asked for this build."""
        return next((asker for asker in self.askers if asker.project == project), None)

    def log_of(self, attempt: int) -> str:
        """Return the digest of an attempt's kept log, or an empty text."""
        return next((log.digest for log in self.logs if log.attempt == attempt), "")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for an image. `insists`: somebody asked for a build by name, so no back-off holds it up."""

    waiter: Waiter
    definition_hash: str
    definition: Definition
    target: Target = "process"
    environment: str = ""
    insists: bool = False
    outlook: bool = False


# --- evolve


def _requested(build: Build, fact: ImageRequested) -> Build:
    known = {waiter.request_id for waiter in (*build.waiters, *build.owed)}
    waiter = Waiter(
        request_id=fact.request_id,
        reply_to=fact.reply_to,
        project=fact.project,
        correlation=fact.correlation,
        refresh=fact.refresh,
    )
    asker = Asker(project=fact.project, environment=fact.environment, at=fact.at)
    return build.model_copy(
        update={
            "definition_hash": fact.definition_hash,
            "definition": fact.definition,
            "target": fact.target,
            "outlook": fact.outlook,
            "askers": build.askers if build.asked_by(fact.project) else (*build.askers, asker),
            "waiters": (*build.waiters, waiter) if fact.waits and fact.request_id not in known else build.waiters,
            "created_at": build.created_at or fact.at,
        }
    )


def _released(build: Build, fact: ImageReleased) -> Build:
    left = tuple(waiter for waiter in build.waiters if waiter.reply_to != fact.reply_to)
    return build.model_copy(update={"waiters": left})


def _started(build: Build, fact: ImageBuildStarted) -> Build:
    solves = not build.lock_digest or any(waiter.refresh for waiter in build.waiters)
    return build.model_copy(
        update={
            "claim": Claim(builder=fact.builder, attempt=fact.attempt, solves=solves),
            "claims": fact.attempt,
            "lost": build.lost + 1,
            "owed": (),
            "started_at": fact.at,
        }
    )


def _with_log(build: Build, attempt: int, digest: str) -> tuple[AttemptLog, ...]:
    if not digest:
        return build.logs
    return (*build.logs, AttemptLog(attempt=attempt, digest=digest))[-KEPT_LOGS:]


def _built(build: Build, fact: ImageBuilt) -> Build:
    solved = build.claim is None or build.claim.solves
    served = tuple(waiter for waiter in build.waiters if solved or not waiter.refresh)
    others = tuple(lock for lock in build.locks if lock != fact.lock_digest)
    return build.model_copy(
        update={
            "claim": None,
            "lost": 0,
            "last": "built",
            "owed": served,
            "waiters": tuple(waiter for waiter in build.waiters if waiter not in served),
            "lock_digest": fact.lock_digest,
            "locks": (*others, fact.lock_digest)[-KEPT_LOCKS:],
            "image": fact.image,
            "evicted": False,
            "seconds": fact.seconds,
            "artefacts": fact.artefacts,
            "bytes": fact.bytes,
            "problem": None,
            "not_before": "",
            "logs": _with_log(build, fact.attempt, fact.log),
            "ended_at": fact.at,
        }
    )


def _failed(build: Build, fact: ImageBuildFailed) -> Build:
    return build.model_copy(
        update={
            "claim": None,
            "lost": 0,
            "last": "failed",
            "owed": build.waiters,
            "waiters": (),
            "problem": fact.problem,
            "not_before": fact.not_before,
            "seconds": build.seconds if build.usable else fact.seconds,
            "logs": _with_log(build, fact.attempt, fact.log),
            "ended_at": fact.at,
        }
    )


def _evicted(build: Build, _: ImageEvicted) -> Build:
    return build.model_copy(update={"evicted": True})


_EVOLVE: dict[type[Fact], Callable[..., Build]] = {
    ImageRequested: _requested,
    ImageReleased: _released,
    ImageBuildStarted: _started,
    ImageBuilt: _built,
    ImageBuildFailed: _failed,
    ImageEvicted: _evicted,
}


def evolve(build: Build, fact: Fact) -> Build:
    """Return the state after a fact; facts of other aggregates change nothing."""
    change = _EVOLVE.get(type(fact))
    return build if change is None else change(build, fact)


BUILDS: Final = Kind("build", Build, evolve)


# --- requests


def in_backoff(build: Build, now: datetime, longest_s: float) -> bool:
    """Whether a mere repetition is refused like the last time.

    A wall clock that stepped back never makes the wait longer than `longest_s`.
    """
    if build.last != "failed" or build.is_open or not build.not_before:
        return False
    left = datetime.fromisoformat(build.not_before) - now
    return timedelta() < left <= timedelta(seconds=longest_s)


def _must_wait(build: Build, ask: Ask, now: datetime, backoff_s: float) -> bool:
    if any(waiter.request_id == ask.waiter.request_id for waiter in build.owed):
        return False
    if ask.waiter.refresh:
        return True
    if build.usable:
        return False
    return ask.insists or not in_backoff(build, now, backoff_s)


def decide_request(
    build: Build, ask: Ask, *, now: datetime, at: str, backoff_s: float, broken: Collection[str] = ()
) -> Decision:
    """Decide whether a request waits; nothing is recorded for one that is answered from what is known.

    `broken` are locks that were looked at and are not complete in the blobs any more.
    """
    if any(waiter.request_id == ask.waiter.request_id for waiter in build.waiters):
        return Decision()
    facts: list[Fact] = []
    if build.usable and build.lock_digest in broken:
        facts.append(ImageEvicted())
        build = evolve(build, facts[0])
    waits = _must_wait(build, ask, now, backoff_s)
    if waits or build.asked_by(ask.waiter.project) is None:
        facts.append(
            ImageRequested(
                request_id=ask.waiter.request_id,
                reply_to=ask.waiter.reply_to,
                project=ask.waiter.project,
                correlation=ask.waiter.correlation,
                refresh=ask.waiter.refresh,
                definition_hash=ask.definition_hash,
                definition=ask.definition,
                target=ask.target,
                outlook=ask.outlook,
                environment=ask.environment,
                waits=waits,
                at=at,
            )
        )
    return Decision(facts)


def answer_to(build: Build, request_id: str, scope: str, build_id: str) -> ImageProvided | ImageRefused | None:
    """Return what a request is answered now; None while it waits."""
    if any(waiter.request_id == request_id for waiter in build.waiters):
        return None
    owed = any(waiter.request_id == request_id for waiter in build.owed)
    refused = build.last == "failed" if owed else not build.usable
    if refused:
        return ImageRefused(problem=build.problem or _LOST_TRACK, build_id=build_id)
    return ImageProvided(
        definition_hash=build.definition_hash,
        lock_digest=build.lock_digest,
        scope=scope,
        target=build.target,
        image=build.image,
        reused=not owed,
        build_id=build_id,
    )


def decide_release(build: Build, reply_to: str) -> Decision:
    """Drop whoever has ended from those who wait."""
    waits = any(waiter.reply_to == reply_to for waiter in build.waiters)
    return Decision([ImageReleased(reply_to=reply_to)] if waits else [])


# --- claims and results


def decide_claim(build: Build, builder: str, *, at: str, over: int | None = None) -> Decision:
    """Take the build. `over` is the attempt of a claim whose holder is known to be dead.

    Nothing is decided when somebody else was quicker, or nothing is left to do. A dead holder's claim
    that nobody waits for any more is ended, and so is a build that killed too many.
    """
    if (build.claim.attempt if build.claim else None) != over:
        return Decision()
    if not build.waiters:
        return Decision([_ended(build, CANCELED, at)] if build.claim else [])
    if build.lost >= MOST_LOST:
        return Decision([_ended(build, LOST, at)])
    return Decision([ImageBuildStarted(builder=builder, attempt=build.claims + 1, at=at)])


def _ended(build: Build, problem: Problem, at: str) -> ImageBuildFailed:
    return ImageBuildFailed(problem=problem, seconds=0.0, attempt=build.claims, at=at)


def decide_end(build: Build, result: ImageBuilt | ImageBuildFailed) -> Decision:
    """Take a result. Raises `Conflict` (`stale_claim`) unless its attempt holds the build."""
    if build.claim is None or build.claim.attempt != result.attempt:
        raise Conflict(
            "stale_claim",
            "Another builder has taken this build over.",
            why=f"The result is of attempt {result.attempt}, and the newest claim is {build.claims}.",
        )
    return Decision([result])


def problem_of(error: ClocheError) -> Problem:
    """Return an error as it goes into facts."""
    message = " ".join(part for part in (error.what, error.why) if part)
    extra: dict[str, object] = {name: _plain(value) for name, value in error.extra.items()}
    return Problem(code=error.code, message=message, todo=error.todo, extra=extra)


def _plain(value: object) -> object:
    """Return what JSON can hold: simple values and lists of texts."""
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return value if isinstance(value, str | int | float | None) else str(value)


CANCELED: Final = Problem(
    code="build_canceled",
    message="The build was stopped because nobody waited for it any more.",
    todo="Ask for it again.",
)
LOST: Final = Problem(
    code="builder_lost",
    message=f"The builder was lost {MOST_LOST} times while it worked on this.",
    todo="See whether the machine has enough memory for the build, then build again.",
)
WITHDRAWN: Final = Problem(code="request_withdrawn", message="Whoever asked has ended.")
_LOST_TRACK: Final = Problem(code="image_evicted", message="The image is no longer kept.", todo="Ask for it again.")
