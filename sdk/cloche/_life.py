"""Operations on environments besides registering: check, difference, clone, history, uses."""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cloche._calls import Call, Operation, send
from cloche._errors import NotFound
from cloche._operations import listed, path_of, views
from cloche._views import Build, Check, Difference, Environment

LOOKED_THROUGH: Final = 500
"""Builds that are looked through for the locks of two versions."""


def check(definition: Mapping[str, object] | None, requirements: str | None, name: str | None) -> Operation[Check]:
    """Return what is wrong with a definition, and what may surprise."""
    body = {"name": name, "definition": definition, "requirements": requirements}
    said = {key: value for key, value in body.items() if value is not None}
    answer = yield from send(Call("POST", path_of("environments", "check"), json=said))
    return Check.model_validate(answer.json())


def clone(name: str, new_name: str, version: str | None, label: str | None) -> Operation[Environment]:
    """Register a version's definition under another name."""
    body: dict[str, object] = {"name": new_name}
    body |= {key: value for key, value in (("version", version), ("label", label)) if value is not None}
    answer = yield from send(Call("POST", path_of("environments", name, "clone"), json=body, once=True))
    return Environment.model_validate({**answer.json(), "created": answer.status == 201})  # noqa: PLR2004 - 201 Created


def diff(name: str, version: str | None, base: str | None, base_name: str | None) -> Operation[Difference]:
    """Return what differs between two versions; also the locked packages, where both were built."""
    query = {"version": version, "base": base, "base_name": base_name}
    answer = yield from send(Call("GET", path_of("environments", name, "diff"), query=query))
    found = Difference.model_validate(answer.json())
    before = yield from _locked(found.base.definition_hash)
    after = yield from _locked(found.other.definition_hash)
    packages = None if before is None or after is None else list(_packages(before, after))
    return Difference.model_validate({**found.model_dump(), "packages": packages})


def _locked(definition_hash: str) -> Operation[dict[str, str] | None]:
    """Return the packages of the newest lock of a definition, by name; None where there is none."""
    builds = yield from views(Build, "builds", limit=LOOKED_THROUGH)
    for build in builds:
        extra = build.model_extra or {}
        if build.status == "Completed" and extra.get("definition_hash") == definition_hash:
            return (yield from _lock(build.id))
    return None


def _lock(build_id: str) -> Operation[dict[str, str] | None]:
    try:
        answer = yield from send(Call("GET", path_of("builds", build_id, "lock")))
    except NotFound:
        return None
    return packages_of(answer.body.decode())


def packages_of(text: str) -> dict[str, str] | None:
    """Return the packages of a `pylock.toml` with their versions; None for a lock of another format."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
    found = table.get("packages", [])
    return {str(one["name"]): str(one.get("version", "")) for one in found if isinstance(one, dict) and "name" in one}


def _packages(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield {"name": name, "before": before.get(name), "after": after.get(name)}


def history(name: str, limit: int | None) -> Operation[list[dict[str, Any]]]:
    """Return every change of an environment, oldest first."""
    return listed("environments", name, "history", limit=limit)


def uses(name: str, limit: int | None, *, ended: bool) -> Operation[list[dict[str, Any]]]:
    """Return what uses an environment; with `ended` the runs that did."""
    return listed("environments", name, "uses", limit=limit, ended="true" if ended else None)


def delete(name: str, *, force: bool) -> Operation[None]:
    """Delete an environment."""
    yield from send(
        Call("DELETE", path_of("environments", name), query={"force": "true" if force else None}, once=True)
    )
