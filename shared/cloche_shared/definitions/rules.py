"""What is wrong with a definition, before anything runs: every fault at once, each with a pointer and a code.

Errors are what the server refuses; warnings are what will work and may surprise (unpinned packages, images
that move). The classes are those that users of Azure ML know, docs/reference/definition.md lists them.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from cloche_shared.contracts.definition import Definition, DockerSection, PythonSection
from cloche_shared.definitions import conda, images
from cloche_shared.definitions.canonical import canonical
from cloche_shared.definitions.channels import channel_faults
from cloche_shared.definitions.effects import TODO, refusals
from cloche_shared.definitions.package_indexes import package_index_faults
from cloche_shared.errors import Invalid, Violation
from cloche_shared.store.indexes import check_indexes
from cloche_shared.store.requirements import check_definition
from cloche_shared.store.variables import check_variables, steers_builds

RESERVED: Final = ("Cloche-", "AzureML-", "Microsoft")
"""What names of curated environments begin with."""
OLDEST: Final = (3, 8)
"""The oldest Python whose runs and scoring workers get Cloche's runtime."""
_VERSION: Final = re.compile(r"3\.(\d+)")
_ONE_PYTHON: Final = re.compile(r"python={1,2}3\.\d{1,2}(\.\d{1,3})?(\.\*)?")
_INTERPRETER: Final = re.compile(r"[A-Za-z0-9_./+-]{1,1024}")
_WHEEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!]{0,127}(-[A-Za-z0-9._+!]{1,128}){4,5}\.whl")
_MAVEN: Final = re.compile(r"[A-Za-z0-9._-]{1,256}")
_PINNED: Final = re.compile(r"[^;]*(===?[^*;]+|@ .*)(;.*|$)", re.DOTALL)
_ULIMITS: Final = frozenset(
    ("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nofile", "nproc", "rss", "sigpending", "stack")
)
_INVALID_TODO: Final = {
    "reserved_variable": "Rename or remove it.",
    "invalid_variable": "Rename or remove it.",
    "reserved_name": "Choose another name.",
}


@dataclass(frozen=True, slots=True)
class Where:
    """The server for which a definition is judged: its platform, and what it allows (None: any).

    Where indexes are restricted and nothing is said of conda channels, none of these is allowed.
    """

    platform: str
    allowed_indexes: tuple[str, ...] | None = None
    allowed_channels: tuple[str, ...] | None = None

    @property
    def permitted_channels(self) -> tuple[str, ...] | None:
        """The conda channels that definitions may name; None: any."""
        return () if self.allowed_channels is None and self.allowed_indexes is not None else self.allowed_channels


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (`error`) or may surprise (`warning`), with a JSON pointer into the definition."""

    severity: Literal["error", "warning"]
    pointer: str
    code: str
    detail: str


def check_name(name: str) -> None:
    """Refuse names of curated environments. Raises `Invalid` (`reserved_name`)."""
    if name.startswith(RESERVED):
        detail = (
            f"Names that begin with {name[: name.find('-') + 1] or 'Microsoft'!r} are those of curated environments."
        )
        raise Invalid(
            "reserved_name",
            f"The name {name!r} is reserved.",
            why=detail,
            todo=_INVALID_TODO["reserved_name"],
            violations=[Violation("/name", "reserved_name", detail)],
        )


def checked(definition: Definition, where: Where) -> Definition:
    """Return the definition in canonical form.

    Raises `Invalid` with the code of the first fault and a violation for each; pointers are those of the
    definition.
    """
    found = check_definition(definition)
    check_indexes(found.python.pip_options, pointer="/python/pip_options", allowed=where.allowed_indexes)
    if _is_plain(found):
        return found
    found, violations = canonical(found)
    violations += _faults(found)
    violations += [*channel_faults(found.python, where.permitted_channels)]
    violations += [*package_index_faults(found.python, where.allowed_indexes), *refusals(found, where.platform)]
    if violations:
        first = violations[0]
        raise Invalid(
            first.code,
            "The definition cannot be used as written.",
            why=first.detail,
            todo=TODO if first.code.endswith("_not_available") else _INVALID_TODO.get(first.code, "Correct it."),
            violations=violations,
        )
    return found


def findings(definition: Definition, where: Where) -> list[Finding]:
    """Return everything that is wrong with a definition or may surprise; nothing is raised."""
    errors: dict[tuple[str, str], Finding] = {}
    for violation in _all_violations(definition, where):
        errors.setdefault(
            (violation.pointer, violation.code), Finding("error", violation.pointer, violation.code, violation.detail)
        )
    form, _ = canonical(definition)
    wrong = {pointer for pointer, code in errors if not code.endswith("_not_available")}
    told = (one for one in _warnings(form) if one.pointer not in wrong)
    warned = [Finding("warning", one.pointer, one.code, one.detail) for one in told]
    return [*errors.values(), *warned]


def _all_violations(definition: Definition, where: Where) -> Iterator[Violation]:
    options = definition.python.pip_options
    try:
        check_variables(definition.variables)
    except Invalid as error:
        yield from error.violations or [Violation("/variables", error.code, error.what)]
    try:
        check_definition(definition.model_copy(update={"variables": {}}))
    except Invalid as error:
        yield from error.violations
    try:
        check_indexes(options, pointer="/python/pip_options", allowed=where.allowed_indexes)
    except Invalid as error:
        yield from error.violations
    form, violations = canonical(definition)
    yield from violations
    yield from _faults(form)
    yield from channel_faults(form.python, where.permitted_channels)
    yield from package_index_faults(form.python, where.allowed_indexes)
    yield from refusals(form, where.platform)


def _is_plain(definition: Definition) -> bool:
    """Whether a definition has nothing but pip's packages and variables, as most have."""
    section = definition.python
    return not (
        section.conda
        or section.wheels
        or section.user_managed
        or section.interpreter_path
        or section.pip_options.package_indexes
        or definition.docker
        or definition.spark
        or definition.databricks
        or definition.apt
        or definition.build_variables
        or definition.inferencing_stack_version
    )


# --- errors


def _faults(definition: Definition) -> list[Violation]:
    """Return what is wrong beyond requirements, indexes and variables; the definition is in canonical form."""
    docker = definition.docker or DockerSection()
    found = [*_python_faults(definition.python), *_docker_faults(docker), *_spark_faults(definition)]
    if docker.enabled and definition.python.user_managed and not _images(docker):
        detail = "Nothing is installed, and no image is named that could have the interpreter."
        found.append(Violation("/docker", "docker_image_missing", detail))
    for number, package in enumerate(definition.apt):
        if not images.is_apt(package):
            detail = f"{package[:80]!r} is no name of a system package, with or without =version."
            found.append(Violation(f"/apt/{number}", "invalid_package", detail))
    found += _build_variable_faults(definition)
    if definition.inferencing_stack_version not in {None, "latest"}:
        detail = "The one stack that can be named is `latest`."
        found.append(Violation("/inferencing_stack_version", "invalid_field", detail))
    return found


def _build_variable_faults(definition: Definition) -> list[Violation]:
    found: list[Violation] = []
    try:
        check_variables(definition.build_variables)
    except Invalid as error:
        found += [Violation(f"/build_{one.pointer[1:]}", one.code, one.detail) for one in error.violations]
    for name in filter(steers_builds, definition.build_variables):
        detail = f"{name} steers where packages come from, which a definition says in other places."
        found.append(Violation(f"/build_variables/{name}", "reserved_variable", detail))
    return found


def _python_faults(section: PythonSection) -> Iterator[Violation]:
    pointer = "/python/interpreter_path"
    if section.interpreter_path and not section.user_managed:
        detail = "An interpreter is named, but Cloche makes the environment; set `user_managed`, or leave it out."
        yield Violation(pointer, "interpreter_unused", detail)
    if section.interpreter_path and (
        not _INTERPRETER.fullmatch(section.interpreter_path) or section.interpreter_path.startswith("-")
    ):
        yield Violation(pointer, "invalid_value", "An interpreter is a path or the name of a program.")
    if section.user_managed and (section.pip or section.conda or section.wheels):
        detail = "Nothing is installed into an environment of the user's own, so packages would be ignored."
        yield Violation("/python/user_managed", "user_managed_packages", detail)
    yield from _conda_faults(section)
    for number, wheel in enumerate(section.wheels):
        if not _WHEEL.fullmatch(wheel.filename):
            detail = "A wheel's file name is name-version-python-abi-platform.whl."
            yield Violation(f"/python/wheels/{number}/filename", "invalid_wheel", detail)


def _conda_faults(section: PythonSection) -> Iterator[Violation]:
    if section.conda is None:
        return
    if section.conda.packages and not section.conda.channels:
        yield Violation("/python/conda/channels", "channels_missing", "Packages are asked for, and no channel has any.")
    if not section.conda.packages and section.conda.base_environment is None:
        detail = "Channels are named, and no conda package is asked for: they would be ignored."
        yield Violation("/python/conda/channels", "channels_unused", detail)
    pythons = [number for number, spec in enumerate(section.conda.packages) if conda.name_of(spec) == "python"]
    if pythons and (section.version is not None or len(pythons) > 1):
        detail = "The interpreter is named twice."
        yield Violation(f"/python/conda/packages/{pythons[-1]}", "python_twice", detail)
    elif pythons and _ONE_PYTHON.fullmatch(section.conda.packages[pythons[0]]):
        detail = "One version of Python stands in python.version; among the packages stands a range."
        yield Violation(f"/python/conda/packages/{pythons[0]}", "python_misplaced", detail)


def _images(docker: DockerSection) -> list[str]:
    return [name for name in ("base_image", "dockerfile", "build_context") if getattr(docker, name) is not None]


def _docker_faults(docker: DockerSection) -> Iterator[Violation]:
    said = _images(docker)
    if len(said) > 1:
        detail = f"One of base_image, dockerfile and build_context decides; here are {' and '.join(said)}."
        yield Violation(f"/docker/{said[-1]}", "docker_several", detail)
    if docker.base_image is not None and not images.is_image(docker.base_image):
        yield Violation("/docker/base_image", "invalid_image", "It is no reference of an image (host/path:tag@digest).")
    if docker.build_context is not None and _escapes(docker.build_context.dockerfile_path):
        detail = "The Dockerfile lies in the context: a relative path without `..`."
        yield Violation("/docker/build_context/dockerfile_path", "unsafe_path", detail)
    if docker.dockerfile is not None and "\0" in docker.dockerfile:
        yield Violation("/docker/dockerfile", "invalid_value", "A Dockerfile holds no NUL.")
    yield from _registry_faults(docker)
    for name in sorted(set(docker.arguments.ulimits) - _ULIMITS):
        yield Violation(f"/docker/arguments/ulimits/{name}", "argument_not_allowed", f"There is no limit {name!r}.")


def _registry_faults(docker: DockerSection) -> Iterator[Violation]:
    registry = docker.registry
    if registry is None:
        return
    if not images.is_registry(registry.address):
        detail = "The address of a registry is a host, perhaps with a port; without scheme, user name and password."
        yield Violation("/docker/registry/address", "invalid_registry", detail)
    if (registry.username_secret is None) != (registry.password_secret is None):
        detail = "User name and password are named together or not at all."
        yield Violation("/docker/registry", "registry_credentials", detail)


def _escapes(path: str) -> bool:
    plain = posixpath.normpath(path)
    return plain.startswith(("/", "..")) or "\\" in path or "\0" in path


def _spark_faults(definition: Definition) -> Iterator[Violation]:
    for number, package in enumerate(definition.spark.packages if definition.spark else ()):
        for name in ("group", "artifact", "version"):
            if not _MAVEN.fullmatch(getattr(package, name)):
                pointer = f"/spark/packages/{number}/{name}"
                yield Violation(pointer, "invalid_package", "Maven coordinates have letters, digits, `.`, `_`, `-`.")


# --- warnings


def _warnings(definition: Definition) -> Iterator[Violation]:
    section = definition.python
    if section.version is None and not section.user_managed and not _asks_python(section):
        yield Violation("/python/version", "python_open", "No Python version is named: the server's default is taken.")
    minor = _VERSION.match(section.version or "")
    if minor and (3, int(minor[1])) < OLDEST:
        detail = f"Runs and scoring workers need Python {OLDEST[0]}.{OLDEST[1]} or newer."
        yield Violation("/python/version", "python_unsupported", detail)
    for number, line in enumerate(section.pip):
        if not _PINNED.fullmatch(line):
            yield Violation(f"/python/pip/{number}", "unpinned", "Its version is open: the first lock decides.")
    for number, spec in enumerate(section.conda.packages if section.conda else ()):
        if not conda.is_pinned(spec):
            pointer = f"/python/conda/packages/{number}"
            yield Violation(pointer, "unpinned", "Its version is open: the first lock decides.")
    image = definition.docker.base_image if definition.docker else None
    if image is not None and images.is_image(image):
        yield from _image_warnings(image)


def _asks_python(section: PythonSection) -> bool:
    return any(conda.name_of(spec) == "python" for spec in (section.conda.packages if section.conda else ()))


def _image_warnings(image: str) -> Iterator[Violation]:
    if images.is_moving(image):
        detail = "It has neither tag nor digest, or the tag `latest`: the first lock decides which image it is."
        yield Violation("/docker/base_image", "image_moves", detail)
    if images.is_retired(image):
        yield Violation("/docker/base_image", "image_retired", "Its publisher does not maintain this image any more.")
