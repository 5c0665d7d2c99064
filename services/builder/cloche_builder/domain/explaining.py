"""What a build of an environment would do, and why: a pure reading of what is known."""

from collections.abc import Iterator
from dataclasses import dataclass

from cloche_builder.domain.builds import Build
from cloche_shared.contracts.definition import CondaSection, Definition
from cloche_shared.contracts.facts import Action, Explanation
from cloche_shared.store.hashing import without_credentials

NAMED = 4
"""Packages that a step names."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is explained: the build as it is, its place, and how many of its lock's files are gone.

    `missing` None: the lock itself is gone. `own_reason` is why the build is the project's alone, or empty.
    """

    build: Build
    build_id: str
    definition_hash: str
    definition: Definition
    own_reason: str
    default_index: str
    missing: int | None = 0


def explain(subject: Subject) -> Explanation:
    """Return what a build would do."""
    build = subject.build
    action, reason, text = _decided(subject)
    return Explanation(
        action=action,
        reason=reason,
        text=text,
        shared=not subject.own_reason,
        scope_text=_scope(subject.own_reason),
        build_id=subject.build_id,
        definition_hash=subject.definition_hash,
        lock_digest=build.lock_digest,
        artefacts=build.artefacts,
        bytes=build.bytes,
        missing=subject.missing or 0,
        steps=tuple(_steps(subject)) if action == "build" else (),
    )


def _decided(subject: Subject) -> tuple[Action, str, str]:
    build = subject.build
    if build.usable and subject.missing == 0:
        text = "This definition is locked and built: the same files are used again, whatever indexes offer by now."
        return "reuse", "built", text
    if build.is_open:
        return "join", "in_progress", "It is being built now; whoever asks waits for the same build."
    if build.lock_digest and subject.missing is not None:
        text = f"{subject.missing or 'Some'} of its files are no longer kept: they are fetched again, by their hashes."
        return "restore", "files_missing", text
    if build.lock_digest:
        return "build", "lock_missing", "Its lock is no longer kept, so another one is made."
    if build.last == "failed" and build.problem is not None:
        text = f"The last build failed ({build.problem.code}): {build.problem.message} It is tried again."
        return "build", "failed_before", text
    return "build", "never_built", "Nobody has built a definition with this hash here yet, so a lock is made."


def _scope(own_reason: str) -> str:
    if own_reason:
        return f"Lock and files are this project's alone: {own_reason}."
    return "Lock and files are shared by all projects: everything comes from places that are everybody's."


def _steps(subject: Subject) -> Iterator[str]:
    """Yield what making a lock takes, in the order of doing; addresses without credentials."""
    section = subject.definition.python
    conda = section.conda if section.conda not in (None, CondaSection()) else None
    if conda is not None:
        yield f"choose conda packages ({_some(conda.packages)}) from {', '.join(conda.channels)}"
    if section.pip:
        options = section.pip_options
        urls = (options.index_url or subject.default_index, *options.extra_index_urls)
        places = ", ".join(without_credentials(url) for url in urls)
        yield f"choose packages of pip ({_some(section.pip)}) from {places}"
    if section.wheels:
        yield f"add private wheels ({_some([wheel.filename for wheel in section.wheels])})"
    yield "keep every file by its hash, and make the environment once on each node that needs it"


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(name.partition(" --hash=")[0] for name in names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown or "Python alone"
