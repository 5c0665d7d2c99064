"""Facts: what happened, in the past tense; and the registry of their types.

A type is `cloche.<Name>.v<major>`. Within a major version fields are only added, with defaults, so a
reader keeps what it does not know (`Lenient`).
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import ConfigDict

from cloche_shared.contracts.common import Lenient
from cloche_shared.errors import Invalid

_types: dict[str, type["Fact"]] = {}


class Fact(Lenient):
    """Base of all facts and answers. Subclasses are registered by their name and `version`."""

    model_config = ConfigDict(defer_build=True)  # a process meets few of them before it is ready

    version: ClassVar[int] = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        _types[fact_type(cls)] = cls


def fact_type(cls: type[Fact]) -> str:
    """Return the wire name of a fact class."""
    return f"cloche.{cls.__name__}.v{cls.version}"


def all_facts() -> dict[str, type[Fact]]:
    """Return every registered fact class by wire name."""
    return dict(_types)


def read_fact(type_name: str, data: Mapping[str, object]) -> Fact | None:
    """Return the fact, or None when its type is not known here (a newer version's).

    Raises `Invalid` (code `malformed_event`) when the data does not fit the type.
    """
    cls = _types.get(type_name)
    if cls is None:
        return None
    try:
        # JSON has lists where strict models have tuples
        return cls.model_validate(data, strict=False)
    except ValueError as error:
        raise Invalid("malformed_event", f"The data of {type_name} does not fit its schema.", why=str(error)) from error
