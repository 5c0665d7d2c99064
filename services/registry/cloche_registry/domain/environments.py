"""Environments: `environment/<project>/<name>`, gapless versions from 1, labels, tombstones.

A definition that leaves the interpreter open (`version: null`) is kept as the user wrote it. Beside
it stands `python`, the server's default at that time: hash and lock are made with it, so neither
moves when the default does. The same text under another default is therefore another version.

A deleted environment keeps its name for ever: what used a version of it keeps its pins, so the same
name could otherwise mean two histories. Registering under it again is refused (`environment_deleted`).
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from cloche_shared.contracts.definition import Definition
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import (
    EnvironmentArchived,
    EnvironmentDeleted,
    EnvironmentLabeled,
    EnvironmentRegistered,
    EnvironmentRestored,
)
from cloche_shared.contracts.references import EnvironmentRef, ResolvedEnvironment
from cloche_shared.errors import Conflict, Invalid, NotFound
from cloche_shared.journal.streams import Decision

LATEST = "latest"


class EnvironmentVersion(BaseModel):
    """One version; it never changes. `python` is the interpreter that hash and lock are made with."""

    model_config = ConfigDict(frozen=True)

    definition: Definition
    definition_hash: str
    python: str
    created_at: str = ""
    created_by: str = ""

    def same_as(self, other: "EnvironmentVersion") -> bool:
        """Whether both say the same as a whole: packages, options, interpreter and variables."""
        return self.definition_hash == other.definition_hash and self.definition == other.definition

    @property
    def effective(self) -> Definition:
        """The definition with the interpreter filled in."""
        if self.definition.python.version is not None:
            return self.definition
        python = self.definition.python.model_copy(update={"version": self.python})
        return self.definition.model_copy(update={"python": python})


class Environment(BaseModel):
    """An environment; the default instance is one that does not exist.

    `changes` counts its facts. Each document of such a stream holds one fact, so it is the stream's
    sequence number too, which is what an entity tag shows.
    """

    model_config = ConfigDict(frozen=True)

    versions: tuple[EnvironmentVersion, ...] = ()
    labels: dict[str, int] = Field(default_factory=dict)
    archived: bool = False
    deleted: bool = False
    changes: int = 0


def evolve(state: Environment, fact: Fact) -> Environment:
    """Return the state after a fact."""
    if isinstance(fact, EnvironmentRegistered):
        return _changed(state, versions=(*state.versions, _version(fact)))
    if isinstance(fact, EnvironmentLabeled):
        return _changed(state, labels=_relabeled(state.labels, fact.label, fact.environment_version))
    if isinstance(fact, EnvironmentArchived | EnvironmentRestored):
        return _changed(state, archived=isinstance(fact, EnvironmentArchived))
    return _changed(state, deleted=state.deleted or isinstance(fact, EnvironmentDeleted))


def _version(fact: EnvironmentRegistered) -> EnvironmentVersion:
    """Return the version that a fact registered."""
    return EnvironmentVersion(
        definition=fact.definition,
        definition_hash=fact.definition_hash,
        python=fact.python,
        created_at=fact.created_at,
        created_by=fact.created_by,
    )


def _changed(state: Environment, **update: object) -> Environment:
    return state.model_copy(update={"changes": state.changes + 1, **update})


def _relabeled(labels: Mapping[str, int], label: str, version: int | None) -> dict[str, int]:
    others = {known: number for known, number in labels.items() if known != label}
    return others if version is None else {**others, label: version}


# --- errors


def not_found(name: str, near: tuple[str, ...] = ()) -> NotFound:
    """Return the error for a name that was never registered; `near` are names like it."""
    return NotFound(
        "environment_not_found",
        f"There is no environment {name!r}.",
        why=f"Names like it: {', '.join(near)}." if near else "",
        todo="Register it with `cloche env register`, or choose one from `cloche env list`.",
        extra={"near": list(near)},
    )


def version_not_found(name: str, version: str, last: int) -> NotFound:
    """Return the error for a version that is not there; `last` is the newest."""
    return NotFound(
        "environment_version_not_found",
        f"The environment {name!r} has no version {version}.",
        why=f"It has the versions 1 to {last}.",
        todo="Name one of these, or none for the latest.",
        extra={"latest": str(last)},
    )


def label_not_found(name: str, label: str, labels: Mapping[str, int]) -> NotFound:
    """Return the error for a label that names no version."""
    known = sorted(labels)
    return NotFound(
        "label_not_found",
        f"The environment {name!r} has no label {label!r}.",
        why=f"It has: {', '.join(known)}." if known else "It has no labels.",
        todo="Set the label, or name a version.",
        extra={"labels": known},
    )


_DELETED_TODO = "Register the definition under another name."


def deleted(name: str) -> NotFound:
    """Return the error for a reference to a deleted environment."""
    return NotFound("environment_deleted", f"The environment {name!r} was deleted.", todo=_DELETED_TODO)


def existing(name: str, state: Environment) -> Environment:
    """Return the state of an environment that can be referred to; raises `NotFound` otherwise."""
    if not state.versions:
        raise not_found(name)
    if state.deleted:
        raise deleted(name)
    return state


# --- decisions


def decide_register(state: Environment, name: str, candidate: EnvironmentVersion) -> Decision:
    """Register a definition; one that equals the latest version as a whole is that version."""
    if state.deleted:
        raise Conflict(
            "environment_deleted",
            f"The environment {name!r} was deleted, and its name is not given again.",
            why="Runs, models and services still name its versions.",
            todo=_DELETED_TODO,
        )
    last = len(state.versions)
    if last and state.versions[-1].same_as(candidate):
        return Decision(json={"version": last, "registered": False})
    return Decision([_registered(last + 1, candidate)], json={"version": last + 1, "registered": True})


def _registered(number: int, candidate: EnvironmentVersion) -> EnvironmentRegistered:
    return EnvironmentRegistered(
        environment_version=number,
        definition=candidate.definition,
        definition_hash=candidate.definition_hash,
        python=candidate.python,
        created_at=candidate.created_at,
        created_by=candidate.created_by,
    )


def find_version(name: str, state: Environment, version: str | None, label: str | None) -> int:
    """Return the number of the version that is meant: by number, by label, or the latest."""
    existing(name, state)
    last = len(state.versions)
    if label is not None and label != LATEST:
        if label not in state.labels:
            raise label_not_found(name, label, state.labels)
        return state.labels[label]
    number = last if version is None else int(version)
    if not 1 <= number <= last:
        raise version_not_found(name, str(number), last)
    return number


def resolve(state: Environment, ref: EnvironmentRef) -> ResolvedEnvironment:
    """Return what a reference means."""
    return resolved(ref.name, state, find_version(ref.name, state, ref.version, ref.label))


def resolved(name: str, state: Environment, number: int, *, registered: bool = False) -> ResolvedEnvironment:
    """Return a version as answers carry it: with the interpreter filled in."""
    return _resolved(name, number, state.versions[number - 1], registered=registered)


def _resolved(name: str, number: int, version: EnvironmentVersion, *, registered: bool) -> ResolvedEnvironment:
    return ResolvedEnvironment(
        name=name,
        version=str(number),
        definition_hash=version.definition_hash,
        definition=version.effective,
        registered=registered,
    )


def decide_inline(
    state: Environment, name: str, candidate: EnvironmentVersion
) -> tuple[list[EnvironmentRegistered], ResolvedEnvironment]:
    """Return what is recorded for a definition that came with a request, and what it is resolved to."""
    decision = decide_register(state, name, candidate)
    facts = [fact for fact in decision.facts if isinstance(fact, EnvironmentRegistered)]
    number = len(state.versions) + len(facts)
    version = candidate if facts else state.versions[-1]
    return facts, _resolved(name, number, version, registered=bool(facts))


def decide_label(state: Environment, name: str, label: str, version: str) -> Decision:
    """Let a label name a version; `latest` always names the newest and cannot be set."""
    if label == LATEST:
        raise Invalid(
            "label_reserved",
            "The label 'latest' always names the newest version.",
            todo="Choose another label.",
        )
    number = find_version(name, state, version, None)
    if state.labels.get(label) == number:
        return Decision()
    return Decision([EnvironmentLabeled(label=label, environment_version=number)])


def decide_unlabel(state: Environment, name: str, label: str) -> Decision:
    """Take a label away."""
    existing(name, state)
    if label not in state.labels:
        raise label_not_found(name, label, state.labels)
    return Decision([EnvironmentLabeled(label=label, environment_version=None)])


def decide_archive(state: Environment, name: str, *, archived: bool) -> Decision:
    """Hide an environment from lists, or show it again; references keep working."""
    existing(name, state)
    if state.archived == archived:
        return Decision()
    return Decision([EnvironmentArchived() if archived else EnvironmentRestored()])


def decide_delete(state: Environment, name: str) -> Decision:
    """Put a tombstone: new references are refused, existing pins win."""
    existing(name, state)
    return Decision([EnvironmentDeleted()])
