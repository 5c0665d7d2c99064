"""From what a user sent to a definition that can be registered: checked, normalised, hashed."""

from dataclasses import dataclass

from cloche_registry.domain.environments import EnvironmentVersion
from cloche_shared.contracts.definition import Definition, PipOptions
from cloche_shared.definitions.rules import Where, checked
from cloche_shared.errors import Invalid, Violation
from cloche_shared.store.hashing import definition_hash
from cloche_shared.store.requirements import parse_requirements

_NO_OPTIONS = PipOptions()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a hash holds besides the definition: the platform, and the interpreter where none is named.

    `allowed_indexes` and `allowed_channels` are those that definitions may name (None: any).
    """

    platform: str
    default_python: str
    allowed_indexes: tuple[str, ...] | None = None
    allowed_channels: tuple[str, ...] | None = None

    @property
    def where(self) -> Where:
        """What definitions are judged for."""
        return Where(self.platform, self.allowed_indexes, self.allowed_channels)


def candidate(definition: Definition, recipe: Recipe, *, created_at: str, created_by: str) -> EnvironmentVersion:
    """Return the version that the definition would be.

    The definition is kept in canonical form (names, specifiers), with the interpreter as the user
    left it. Raises `Invalid` with pointers below `/definition`, also for what cannot take effect here.
    """
    try:
        found = checked(definition, recipe.where)
    except Invalid as error:
        raise below(error, "/definition") from None
    python = found.python.version or recipe.default_python
    digest = definition_hash(found, platform=recipe.platform, default_python=recipe.default_python)
    return EnvironmentVersion(
        definition=found, definition_hash=digest, python=python, created_at=created_at, created_by=created_by
    )


def below(error: Invalid, pointer: str) -> Invalid:
    """Return the error with its pointers put below another."""
    violations = [Violation(pointer + found.pointer, found.code, found.detail) for found in error.violations]
    return Invalid(error.code, error.what, why=error.why, todo=error.todo, violations=violations, extra=error.extra)


def with_requirements(definition: Definition | None, requirements: str | None) -> Definition:
    """Return the definition that a request's two fields make together.

    Raises `Invalid` (`definition_missing`, `requirements_twice`), or as `parse_requirements` does.
    """
    if requirements is None:
        if definition is None:
            raise Invalid(
                "definition_missing",
                "The request has neither a definition nor requirements.",
                todo="Send one of `definition` and `requirements`.",
            )
        return definition
    base = definition or Definition()
    if base.python.pip or base.python.pip_options != _NO_OPTIONS:
        raise Invalid(
            "requirements_twice",
            "The packages are given twice.",
            todo="Give them in `requirements` or in `definition.python`, not in both.",
            violations=[Violation("/requirements", "requirements_twice", "The definition has packages of its own.")],
        )
    pip, options = parse_requirements(requirements)
    if len(pip) > MAX_REQUIREMENTS:
        raise Invalid(
            "invalid_field",
            f"There are more than {MAX_REQUIREMENTS} requirements.",
            violations=[Violation("/requirements", "invalid_field", "Too many requirements.")],
        )
    section = base.python.model_copy(update={"pip": pip, "pip_options": options})
    return base.model_copy(update={"python": section})


MAX_REQUIREMENTS = 2000
"""As in `PythonSection.pip`."""
