"""The canonical form of a definition: what it says, written one way.

Names and specifications are normalised and each stands once, in the order in which the user wrote them;
sections that say nothing are left out. Equal definitions are therefore equal as values.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from packaging.utils import canonicalize_name

from cloche_shared.contracts.definition import (
    CondaSection,
    DatabricksSection,
    Definition,
    DockerSection,
    PythonSection,
    SparkSection,
)
from cloche_shared.definitions.conda import ConfusedError, canonical_channel, canonical_spec
from cloche_shared.errors import Violation

_SILENT: Final = (DockerSection(), SparkSection(), DatabricksSection(), CondaSection(), None)


def canonical(definition: Definition) -> tuple[Definition, list[Violation]]:
    """Return the canonical form and what is wrong: conda specifications that cannot be read are left as they are.

    Requirements of pip, which most definitions have alone, are normalised by `check_definition`.
    """
    update: dict[str, object] = {
        name: None
        for name, section in (
            ("docker", definition.docker),
            ("spark", definition.spark),
            ("databricks", definition.databricks),
        )
        if section is not None and section in _SILENT
    }
    python, violations = _python(definition.python)
    if python is not definition.python:
        update["python"] = python
    if definition.apt:
        update["apt"] = tuple(dict.fromkeys(definition.apt))
    return (definition.model_copy(update=update) if update else definition), violations


def _python(section: PythonSection) -> tuple[PythonSection, list[Violation]]:
    update: dict[str, object] = {}
    violations: list[Violation] = []
    if section.pip_options.package_indexes:
        named = {canonicalize_name(name): url for name, url in section.pip_options.package_indexes.items()}
        update["pip_options"] = section.pip_options.model_copy(update={"package_indexes": named})
    if section.conda is not None:
        conda, violations = _conda(section.conda)
        update["conda"] = None if conda in _SILENT else conda
    if section.wheels:
        update["wheels"] = tuple({wheel.digest: wheel for wheel in section.wheels}.values())
    return (section.model_copy(update=update) if update else section), violations


def _conda(section: CondaSection) -> tuple[CondaSection, list[Violation]]:
    found: list[Violation] = []
    packages = list(_each(section.packages, canonical_spec, ("packages", "invalid_conda_spec"), found))
    channels = list(_each(section.channels, canonical_channel, ("channels", "invalid_channel"), found))
    update = {"packages": tuple(dict.fromkeys(packages)), "channels": tuple(dict.fromkeys(channels))}
    return section.model_copy(update=update), found


def _each(
    texts: Sequence[str], form: Callable[[str], str], fault: tuple[str, str], found: list[Violation]
) -> Iterator[str]:
    where, code = fault
    for number, text in enumerate(texts):
        try:
            yield form(text)
        except ConfusedError as error:
            found.append(Violation(f"/python/conda/{where}/{number}", code, str(error)))
            yield text
