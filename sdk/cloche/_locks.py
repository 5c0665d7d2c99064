"""Operations on the locks of environments: lock, refresh, drift, explain, and what differs between two locks."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from cloche import _operations as ops
from cloche._calls import Call, Operation, send
from cloche._errors import Failed, NotFound
from cloche._operations import Deadline, environment_reference, path_of
from cloche._views import Build, Drift, Environment, Explanation, LockChanges

Reference = str | Mapping[str, object]


def ask(environment: Reference, purpose: Literal["drift", "explain"]) -> Operation[Build]:
    """Ask what a refresh would change, or what a build would do."""
    body: dict[str, object] = {"environment": environment_reference(environment), "purpose": purpose}
    answer = yield from send(Call("POST", path_of("builds"), json=body, once=True))
    return Build.model_validate(answer.json())


def ended(build: Build, timeout: float | None) -> Operation[Build]:
    """Return a build once it has completed. Raises `Failed` with its problem, or `TimeoutError`."""
    found = build
    if not found.ended:
        found = yield from ops.wait_for(Build, "ended", "builds", build.id, left=Deadline(timeout))
    if found.status == "Failed":
        raise _failed(found)
    return found


def _failed(build: Build) -> Failed | NotFound:
    problem = build.problem
    if problem is None:
        return Failed("build_failed", "The build failed.", todo=f"See its log: `cloche build logs {build.id}`.")
    kind = NotFound if problem.code.endswith("_not_found") and problem.code != "package_not_found" else Failed
    return kind(problem.code, problem.message, todo=problem.todo, extra={"build": build.id})


def lock(environment: Reference, timeout: float | None) -> Operation[str]:
    """Return the lock as text, building first if need be."""
    started = yield from ops.start_build(environment, refresh=False)
    built = yield from ended(started, timeout)
    return (yield from lock_text(built.id, None))


def lock_text(build_id: str, digest: str | None) -> Operation[str]:
    """Return a lock of a build: the newest, or an older one by its digest."""
    answer = yield from send(Call("GET", path_of("builds", build_id, "lock"), query={"digest": digest}))
    return answer.body.decode()


def changes(build_id: str) -> Operation[LockChanges]:
    """Return what differs between a build's lock and the one before."""
    return ops.get(LockChanges, "builds", build_id, "changes")


def refresh(environment: Reference, timeout: float | None) -> Operation[LockChanges]:
    """Make another lock and return what differs from the one before."""
    started = yield from ops.start_build(environment, refresh=True)
    built = yield from ended(started, timeout)
    return (yield from changes(built.id))


def drift(environment: Reference, timeout: float | None) -> Operation[Drift]:
    """Return what a refresh would change; nothing is changed."""
    asked = yield from ask(environment, "drift")
    known = yield from ended(asked, timeout)
    found = yield from changes(known.id)
    return Drift.model_validate({**found.model_dump(), "environment": (known.model_extra or {}).get("environment", "")})


def explain(environment: Reference, timeout: float | None) -> Operation[Explanation]:
    """Return what a build would do, and why; nothing is built."""
    asked = yield from ask(environment, "explain")
    known = yield from ended(asked, timeout)
    extra = known.model_extra or {}
    said = extra.get("explanation")
    return Explanation.model_validate(
        {**(said if isinstance(said, dict) else {}), "environment": extra.get("environment", "")}
    )


def build_of(environment: Environment) -> Operation[Build | None]:
    """Return the project's build of a version; None where it was never built."""
    found = yield from ops.views(Build, "builds", definition_hash=environment.definition_hash)
    return found[0] if found else None


def log(environment: Environment) -> Operation[str]:
    """Return the log of the newest build of a version. Raises `NotFound` (`build_not_found`)."""
    found = yield from build_of(environment)
    if found is None:
        raise never_built(environment)
    answer = yield from send(Call("GET", path_of("builds", found.id, "log")))
    return answer.body.decode(errors="replace")


def never_built(environment: Environment) -> NotFound:
    """Return the error for a version that has no build."""
    return NotFound(
        "build_not_found",
        f"{environment.name}:{environment.version} was never built.",
        todo=f"Build it: `cloche env build {environment.name}:{environment.version}`.",
    )


def locked(definition_hash: str) -> Operation[dict[tuple[str, str], str] | None]:
    """Return the packages of the newest lock of a definition, by kind and name; None where there is none."""
    builds = yield from ops.views(Build, "builds", definition_hash=definition_hash)
    for build in builds:
        if not (build.model_extra or {}).get("lock_digest"):
            continue
        try:
            answer = yield from send(Call("GET", path_of("builds", build.id, "packages")))
        except NotFound:
            continue
        return dict(_packages(answer.json()))
    return None


def _packages(document: Mapping[str, object]) -> Iterator[tuple[tuple[str, str], str]]:
    found = document.get("packages")
    for one in found if isinstance(found, list) else ():
        version = f"{one.get('version', '')} {one.get('build', '')}".rstrip()
        yield (str(one.get("kind", "pip")), str(one.get("name", ""))), version


def between(before: Mapping[tuple[str, str], str], after: Mapping[tuple[str, str], str]) -> Iterator[dict[str, Any]]:
    """Yield the packages that two locks have in different versions, or only one of them has."""
    for kind, name in sorted({*before, *after}):
        was, now = before.get((kind, name)), after.get((kind, name))
        if was != now:
            yield {"kind": kind, "name": name, "before": was, "after": now}
