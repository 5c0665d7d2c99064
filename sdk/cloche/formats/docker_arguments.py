"""Arguments of `docker run` as people write them, and the few that a definition can say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cloche._errors import Invalid
from cloche.formats.reading import invalid
from cloche_shared.contracts.definition import ContainerArguments
from cloche_shared.errors import Violation

_KNOWN: Final = {
    "--cpus": "cpus",
    "--memory": "memory",
    "-m": "memory",
    "--ulimit": "ulimit",
    "--shm-size": "shm_size",
}
WHAT: Final = "An argument of the container is not available."
TODO: Final = "Available are --cpus, --memory, --shm-size and --ulimit."


@dataclass
class Asked:
    """What arguments ask for."""

    cpus: str | None = None
    memory: str | None = None
    shm_size: str | None = None
    ulimits: dict[str, str] = field(default_factory=dict)


def read_arguments(words: Iterable[str], pointer: str) -> tuple[ContainerArguments, str | None]:
    """Return typed arguments and the size of /dev/shm. Raises `Invalid` (`argument_not_allowed`)."""
    asked = Asked()
    pending: tuple[str, int] | None = None
    split = [part for word in words for part in word.split()]
    for number, word in enumerate(split):
        if pending is not None:
            _set(asked, pending[0], word, f"{pointer}/{pending[1]}")
            pending = None
            continue
        name, equals, value = word.partition("=")
        if name not in _KNOWN:
            raise invalid("argument_not_allowed", WHAT, f"{pointer}/{number}", f"{name[:80]!r} is not available.", TODO)
        if equals:
            _set(asked, name, value, f"{pointer}/{number}")
        else:
            pending = name, number
    if pending is not None:
        raise invalid("argument_not_allowed", WHAT, f"{pointer}/{pending[1]}", f"{pending[0]} needs a value.", TODO)
    return _typed(asked, pointer), asked.shm_size


def _set(asked: Asked, name: str, value: str, pointer: str) -> None:
    kind = _KNOWN[name]
    if kind == "ulimit":
        limit, equals, number = value.partition("=")
        if not equals:
            raise invalid("argument_not_allowed", WHAT, pointer, "A limit has the form name=soft:hard.", TODO)
        asked.ulimits[limit] = number
    else:
        setattr(asked, kind, value.lower())


def _typed(asked: Asked, pointer: str) -> ContainerArguments:
    try:
        return ContainerArguments(cpus=asked.cpus, memory=asked.memory, ulimits=asked.ulimits)
    except ValueError:
        detail = "The value of an argument cannot be read."
        violations = [Violation(pointer, "argument_not_allowed", detail)]
        raise Invalid("argument_not_allowed", WHAT, why=detail, todo=TODO, violations=violations) from None


def write_arguments(arguments: ContainerArguments) -> list[str]:
    """Return typed arguments as people write them."""
    said: Mapping[str, str | None] = {"--cpus": arguments.cpus, "--memory": arguments.memory}
    words = [f"{name}={value}" for name, value in said.items() if value]
    return words + [f"--ulimit={name}={value}" for name, value in sorted(arguments.ulimits.items())]
