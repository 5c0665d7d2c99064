"""Requirements files of pip."""

from cloche.formats.reading import Exported, Imported, Note, kept_packages, option_lines, python_of
from cloche_shared.contracts.definition import Definition
from cloche_shared.store.requirements import parse_requirements


def read_requirements(text: str) -> Imported:
    """Return what a requirements file says; `-r` and `-c` files stand in its place already.

    Raises `Invalid` with pointers `/requirements/<line>`.
    """
    pip, options = parse_requirements(text)
    return Imported(Definition(python=python_of(None, pip, options)), notes=tuple(kept_packages(pip)))


def write_requirements(definition: Definition) -> Exported:
    """Return `requirements.txt`, and what it cannot say."""
    from cloche.formats.conda_yaml import unsaid  # noqa: PLC0415 - the one thing that both write

    section = definition.python
    notes = unsaid(definition)
    if section.version:
        notes.insert(0, Note("/python/version", f"Python {section.version} cannot be said there."))
    if section.conda is not None:
        notes.insert(0, Note("/python/conda", "Packages of conda cannot be said there."))
    if definition.variables:
        notes.append(Note("/variables", "variables cannot be said there."))
    lines = [*option_lines(section.pip_options), *section.pip]
    return Exported({"requirements.txt": "".join(f"{line}\n" for line in lines)}, tuple(notes))
