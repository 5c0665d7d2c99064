"""What all formats share: what an import gives, notes on what was ignored, errors that point into the file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cloche._errors import Invalid
from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection
from cloche_shared.errors import Violation
from cloche_shared.store.requirements import parse_requirements

ReadFile = Callable[[str], str]
"""Returns the text of a file by its path relative to the first one's folder."""
AZURE_PACKAGE: Final = "azureml-defaults"


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the import left out or changed: where it stands, and a sentence."""

    pointer: str
    text: str


@dataclass(frozen=True, slots=True)
class Imported:
    """A definition from another format. `name` is empty where the format has none."""

    definition: Definition
    name: str = ""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """Files by name, and what they cannot say."""

    files: Mapping[str, str]
    notes: tuple[Note, ...] = ()


def invalid(code: str, what: str, pointer: str, detail: str, todo: str = "") -> Invalid:
    """Return an error that points at one place."""
    return Invalid(code, what, why=detail, todo=todo, violations=[Violation(pointer, code, detail)])


def requirements_of(lines: Iterable[str], pointer: str) -> tuple[tuple[str, ...], PipOptions]:
    """Return requirements and options of a list of lines. Raises `Invalid` with pointers below `pointer`."""
    listed = [line for line in lines if line.strip()]
    try:
        return parse_requirements("\n".join(listed))
    except Invalid as error:
        moved = [
            Violation(f"{pointer}/{int(one.pointer.rpartition('/')[2]) - 1}", one.code, one.detail)
            for one in error.violations
        ]
        raise Invalid(error.code, error.what, why=error.why, todo=error.todo, violations=moved) from None


def kept_packages(pip: Iterable[str]) -> list[Note]:
    """Return notes on packages that are kept though they are seldom meant."""
    text = f"{AZURE_PACKAGE} is kept; scoring here does not need it, and it brings many packages."
    return [Note("/pip", text) for line in pip if line.partition("[")[0].split("=")[0].strip() == AZURE_PACKAGE]


def option_lines(options: PipOptions) -> list[str]:
    """Return options as lines of a requirements file; `package_indexes` has no line."""
    lines = [f"--index-url {options.index_url}"] if options.index_url else []
    lines += [f"--extra-index-url {url}" for url in options.extra_index_urls]
    lines += ["--pre"] if options.pre else []
    lines += [f"--no-binary {name}" for name in options.no_binary]
    lines += [f"--only-binary {name}" for name in options.only_binary]
    return [*lines, "--require-hashes"] if options.require_hashes else lines


def python_of(version: str | None, pip: tuple[str, ...], options: PipOptions) -> PythonSection:
    """Return a Python section with packages of pip alone."""
    return PythonSection(version=version, pip=pip, pip_options=options)
