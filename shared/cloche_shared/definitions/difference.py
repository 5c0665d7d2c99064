"""What differs between two definitions, one entry for each thing that a person would name.

Packages are compared by name, so that another version is one change and not two; everything else by its
place in the document.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from packaging.utils import canonicalize_name

from cloche_shared.contracts.definition import Definition
from cloche_shared.definitions.conda import name_of


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where, what was there before and what is there now, as text; None: nothing."""

    pointer: str
    before: str | None
    after: str | None


def _pip_name(line: str) -> str:
    end = next((place for place, sign in enumerate(line) if not (sign.isalnum() or sign in "._-")), len(line))
    return canonicalize_name(line[:end])


_BY_NAME: Final[Mapping[str, Callable[[str], str]]] = {
    "/python/pip": _pip_name,
    "/python/conda/packages": name_of,
    "/apt": lambda package: package.partition("=")[0],
}


def differences(before: Definition, after: Definition) -> list[Change]:
    """Return what differs, in the order of the document."""
    return list(_objects(before.model_dump(mode="json"), after.model_dump(mode="json"), ""))


def _objects(before: object, after: object, pointer: str) -> Iterator[Change]:
    if before == after:
        return
    one, other = before or {}, after or {}
    if pointer in _BY_NAME:
        yield from _named(_list(before), _list(after), pointer)
    elif isinstance(one, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*one, *other]):
            place = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            yield from _objects(one.get(name), other.get(name), place)
    elif isinstance(before or [], list) and isinstance(after or [], list):
        yield from _listed(_list(before), _list(after), pointer)
    else:
        yield Change(pointer, _text(before), _text(after))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _named(before: Sequence[object], after: Sequence[object], pointer: str) -> Iterator[Change]:
    """Yield packages that came, went or changed; their order is no difference."""
    name = _BY_NAME[pointer]
    one: dict[str, list[str]] = {}
    other: dict[str, list[str]] = {}
    for lines, named in ((before, one), (after, other)):
        for line in lines:
            named.setdefault(name(str(line)), []).append(str(line))
    for key in sorted({*one, *other}):
        was, now = sorted(one.get(key, ())), sorted(other.get(key, ()))
        if was != now:
            yield Change(f"{pointer}/{key}", ", ".join(was) or None, ", ".join(now) or None)


def _listed(before: Sequence[object], after: Sequence[object], pointer: str) -> Iterator[Change]:
    """Yield what came and went; where both have the same in another order, the order is the change."""
    gone = [one for one in before if one not in after]
    come = [one for one in after if one not in before]
    yield from (Change(pointer, _text(one), None) for one in gone)
    yield from (Change(pointer, None, _text(one)) for one in come)
    if not gone and not come:
        yield Change(pointer, ", ".join(map(str, before)), ", ".join(map(str, after)))


def _text(value: object) -> str | None:
    if value in (None, "", [], {}):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items() if item)
    return str(value)
