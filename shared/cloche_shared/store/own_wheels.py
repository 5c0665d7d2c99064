"""Private wheels in a lock: chosen as given, named by content, and with no address but their name beside the lock."""

import json
from collections.abc import Collection, Sequence

from packaging.utils import parse_wheel_filename

from cloche_shared.errors import Failed
from cloche_shared.ports.resolver import Choice, OwnWheel
from cloche_shared.store.wheel_refs import name_and_version


def own_choices(wheels: Sequence[OwnWheel], tags: Collection[str] = ()) -> tuple[Choice, ...]:
    """Return the wheels as they are chosen, by name; `tags` are those of the interpreter (empty: any).

    Raises `Failed` (`wheel_not_compatible`, `solver_conflict`).
    """
    chosen: dict[str, Choice] = {}
    for wheel in wheels:
        choice = _choice(wheel)
        if tags and not {str(tag) for tag in parse_wheel_filename(wheel.filename)[3]} & set(tags):
            raise _not_compatible(choice)
        if choice.name in chosen:
            raise _twice(chosen[choice.name], choice)
        chosen[choice.name] = choice
    return tuple(chosen[name] for name in sorted(chosen))


def _choice(wheel: OwnWheel) -> Choice:
    name, version = name_and_version(wheel.filename)
    return Choice("wheel", name, version, wheel.filename, f"./{wheel.filename}", wheel.digest, wheel.size)


def _not_compatible(choice: Choice) -> Failed:
    return Failed(
        "wheel_not_compatible",
        f"The private wheel {choice.filename} is for another Python or platform.",
        todo="Upload one that was built for this environment's, or choose another Python version.",
        extra={"package": choice.name},
    )


def _twice(one: Choice, other: Choice) -> Failed:
    return Failed(
        "solver_conflict",
        f"{one.filename} and {other.filename} are wheels of one package.",
        todo="Name one of them.",
        extra={"package": one.name, "requirements": [one.filename, other.filename]},
    )


def with_own(pylock: str, choices: Sequence[Choice]) -> str:
    """Return a `pylock.toml` with private wheels in it: each by its hash, its path beside the file."""
    return "\n".join([pylock.rstrip() + "\n", *map(_block, choices)])


def _block(choice: Choice) -> str:
    name, filename, digest = (json.dumps(one) for one in (choice.name, choice.filename, (choice.hash or "")[7:]))
    file = f"name = {filename}, path = {filename}, size = {choice.size or 0}, hashes = {{ sha256 = {digest} }}"
    return f"[[packages]]\nname = {name}\nversion = {json.dumps(choice.version)}\nwheels = [{{ {file} }}]\n"
