"""Operations on environments besides registering: check, difference, clone, history, uses."""

from collections.abc import Mapping
from typing import Any

from cloche import _locks as locks
from cloche._calls import Call, Operation, send
from cloche._operations import listed, path_of
from cloche._views import Check, Difference, Environment


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
    before = yield from locks.locked(found.base.definition_hash)
    after = yield from locks.locked(found.other.definition_hash)
    packages = None if before is None or after is None else list(locks.between(before, after))
    return Difference.model_validate({**found.model_dump(), "packages": packages})


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
