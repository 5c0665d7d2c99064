"""`pyproject.toml`, and the locks `pylock.toml` (PEP 751) and `uv.lock`."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from cloche.formats.reading import Imported, Note, invalid, kept_packages, requirements_of
from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection

MAX_CHARACTERS: Final = 16 * 1024 * 1024
MAX_WAYS: Final = 16
"""Ways on which a package is needed, each with its markers; with more it is taken unconditionally."""
PUBLIC_INDEX: Final = "https://pypi.org/simple"
Table = Mapping[str, Any]


def _table(text: str, code: str, what: str) -> Table:
    if len(text) > MAX_CHARACTERS:
        raise invalid(code, what, "", f"A file has {MAX_CHARACTERS // 1024**2} MiB at most.")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        raise invalid(code, what, f"/{found[1]}" if found else "", f"{error}.") from None


def _texts(value: object, code: str, what: str, pointer: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise invalid(code, what, pointer, "It is a list of texts.")
    return value


def _part(table: Table, name: str) -> Table:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def _items(value: object) -> list[Table]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


# --- pyproject.toml

_PROJECT: Final = "pyproject.toml cannot be used as written."


def read_pyproject(text: str, *, extras: Iterable[str] = (), groups: Iterable[str] = ()) -> Imported:
    """Return the dependencies of a project, with some of its extras and dependency groups.

    Raises `Invalid` (`invalid_pyproject`, `invalid_requirement` …).
    """
    table = _table(text, "invalid_pyproject", _PROJECT)
    project = table.get("project")
    if not isinstance(project, dict):
        raise invalid(
            "invalid_pyproject", _PROJECT, "/project", "It has no [project] table.", "Add one, or use a lock."
        )
    notes: list[Note] = []
    lines = _project_lines(project, table, list(extras), list(groups))
    pip, _ = requirements_of(lines, "/project/dependencies")
    options = _uv_options(_part(_part(table, "tool"), "uv"), notes)
    version = _version(project.get("requires-python"), "/project/requires-python", notes)
    if "dependencies" in (project.get("dynamic") or ()):
        raise invalid("invalid_pyproject", _PROJECT, "/project/dynamic", "Its dependencies are made by its build.")
    notes += kept_packages(pip)
    notes += [
        Note(f"/tool/{name}", f"tool.{name} is not read.")
        for name in sorted(_part(table, "tool"))
        if name in {"poetry", "pdm", "hatch", "pixi", "conda-lock"}
    ]
    section = PythonSection(version=version, pip=pip, pip_options=options)
    return Imported(Definition(python=section), str(project.get("name") or ""), tuple(notes))


def _project_lines(project: Table, table: Table, extras: Sequence[str], groups: Sequence[str]) -> list[str]:
    code = "invalid_pyproject"
    lines = list(_texts(project.get("dependencies", []), code, _PROJECT, "/project/dependencies"))
    optional = _part(project, "optional-dependencies")
    for name in extras:
        pointer = f"/project/optional-dependencies/{name}"
        if name not in optional:
            raise invalid(code, _PROJECT, pointer, f"There is no extra {name!r}.")
        lines += _texts(optional[name], code, _PROJECT, pointer)
    for name in groups:
        lines += _group(_part(table, "dependency-groups"), name, ())
    return lines


def _group(groups: Table, name: str, above: tuple[str, ...]) -> Iterator[str]:
    pointer = f"/dependency-groups/{name}"
    if name not in groups or name in above:
        raise invalid("invalid_pyproject", _PROJECT, pointer, f"There is no group {name!r}, or it includes itself.")
    for one in groups[name]:
        if isinstance(one, dict) and isinstance(one.get("include-group"), str):
            yield from _group(groups, one["include-group"], (*above, name))
        elif isinstance(one, str):
            yield one
        else:
            raise invalid("invalid_pyproject", _PROJECT, pointer, "A member is a requirement or an included group.")


def _uv_options(uv: Table, notes: list[Note]) -> PipOptions:
    """Return indexes as uv's table names them; sources that are no index are refused."""
    indexes = _items(uv.get("index"))
    named = {str(one.get("name")): str(one.get("url")) for one in indexes}
    default = next((str(one["url"]) for one in indexes if one.get("default")), None)
    extra = tuple(str(one["url"]) for one in indexes if not one.get("default") and not one.get("explicit"))
    places: dict[str, str] = {}
    for name, source in _part(uv, "sources").items():
        index = source.get("index") if isinstance(source, dict) else None
        if index not in named:
            detail = f"{name} comes from a repository, a path or an address; only indexes are available."
            raise invalid("requirement_option", _PROJECT, f"/tool/uv/sources/{name}", detail)
        places[name] = named[index]
    notes += [
        Note(f"/tool/uv/{name}", f"tool.uv.{name} is not read.")
        for name in sorted(set(uv) - {"index", "sources", "dev-dependencies", "package"})
    ]
    return PipOptions(index_url=default, extra_index_urls=extra, package_indexes=places)


def _version(asked: object, pointer: str, notes: list[Note]) -> str | None:
    """Return the one version of Python that a specifier allows; a range leaves it open, with a note."""
    if not isinstance(asked, str) or not asked.strip():
        return None
    try:
        found = list(SpecifierSet(asked))
    except InvalidSpecifier:
        raise invalid("python_invalid", _PROJECT, pointer, f"{asked[:80]!r} is no specifier of versions.") from None
    if len(found) == 1 and found[0].operator in {"==", "~="}:
        parts = found[0].version.removesuffix(".*").split(".")
        kept = parts[:2] if found[0].operator == "~=" and len(parts) > 2 else parts  # noqa: PLR2004 - ~=3.11.2 is 3.11
        if parts[0] == "3" and len(kept) in {2, 3} and all(one.isdecimal() for one in kept):
            return ".".join(kept)
    notes.append(Note(pointer, f"{asked} is a range: the version is left open, and the server's default is taken."))
    return None


# --- locks


def read_pylock(text: str) -> Imported:
    """Return the packages of a `pylock.toml`, each pinned, with its hashes.

    Raises `Invalid` (`invalid_lock`, `requirement_option`).
    """
    what = "pylock.toml cannot be used as written."
    table = _table(text, "invalid_lock", what)
    if not str(table.get("lock-version", "")).startswith("1."):
        raise invalid("invalid_lock", what, "/lock-version", "It is no lock of version 1.")
    lines: list[str] = []
    notes: list[Note] = []
    indexes: set[str] = set()
    for number, package in enumerate(_items(table.get("packages"))):
        pointer = f"/packages/{number}"
        _refuse_sources(package, ("vcs", "directory", "archive"), pointer, what)
        files = [*_items(package.get("wheels")), *([_part(package, "sdist")] if "sdist" in package else [])]
        hashes = [str(_part(one, "hashes").get("sha256")) for one in files if "sha256" in _part(one, "hashes")]
        lines.append(_pin(package, str(package.get("marker", "")), hashes, pointer, what))
        indexes.add(str(package.get("index", PUBLIC_INDEX)).rstrip("/"))
    version = _version(table.get("requires-python"), "/requires-python", notes)
    return _locked(lines, version, indexes, notes, "/packages")


def read_uv_lock(text: str) -> Imported:
    """Return the packages that the projects of a `uv.lock` need, each pinned, with its hashes.

    Raises `Invalid` (`invalid_lock`, `requirement_option`).
    """
    what = "uv.lock cannot be used as written."
    table = _table(text, "invalid_lock", what)
    if table.get("version") != 1:
        raise invalid("invalid_lock", what, "/version", "It is no lock of version 1.")
    packages = _items(table.get("package"))
    needed = _needed(packages)
    lines: list[str] = []
    notes: list[Note] = []
    indexes: set[str] = set()
    for number, package in enumerate(packages):
        source = _part(package, "source")
        if "virtual" in source or "editable" in source or number not in needed:
            continue
        pointer = f"/package/{number}"
        _refuse_sources(source, ("git", "url", "path", "directory"), f"{pointer}/source", what)
        files = [*_items(package.get("wheels")), *([_part(package, "sdist")] if "sdist" in package else [])]
        hashes = [str(one["hash"]).removeprefix("sha256:") for one in files if "hash" in one]
        lines.append(_pin(package, _joined(needed[number], package, notes), hashes, pointer, what))
        indexes.add(str(source.get("registry", PUBLIC_INDEX)).rstrip("/"))
    version = _version(table.get("requires-python"), "/requires-python", notes)
    return _locked(lines, version, indexes, notes, "/package")


def _refuse_sources(table: Table, kinds: Iterable[str], pointer: str, what: str) -> None:
    for kind in kinds:
        if kind in table:
            detail = "It comes from a repository, a path or an address; only packages of an index are available."
            raise invalid("requirement_option", what, f"{pointer}/{kind}", detail)


def _pin(package: Table, marker: str, hashes: Iterable[str], pointer: str, what: str) -> str:
    name, version = package.get("name"), package.get("version")
    if not isinstance(name, str) or not isinstance(version, str):
        raise invalid("invalid_lock", what, pointer, "A package has a name and a version.")
    line = f"{name}=={version}" + (f" ; {marker}" if marker else "")
    kept = " ".join(f"--hash=sha256:{one}" for one in sorted(set(hashes)))
    # a requirement has 2,048 characters: where there are too many files, the version alone is pinned
    return f"{line} {kept}".rstrip() if len(line) + len(kept) < 2000 else line  # noqa: PLR2004 - the same


def _locked(lines: list[str], version: str | None, indexes: set[str], notes: list[Note], pointer: str) -> Imported:
    pip, _ = requirements_of(lines, pointer)
    first, *others = sorted(indexes, key=lambda url: (url == PUBLIC_INDEX, url)) or [PUBLIC_INDEX]
    options = PipOptions(
        index_url=None if first == PUBLIC_INDEX else first,
        extra_index_urls=tuple(others),
        require_hashes=bool(pip) and all("--hash=" in line for line in pip),
    )
    section = PythonSection(version=version, pip=pip, pip_options=options)
    return Imported(Definition(python=section), notes=(*notes, *kept_packages(pip)))


def _needed(packages: Sequence[Table]) -> dict[int, set[frozenset[str]]]:
    """Return the packages that the projects need, each with the ways to it: sets of markers that must all hold."""
    numbers: dict[tuple[str, str | None], int] = {}
    for number, package in enumerate(packages):
        numbers[str(package.get("name")), None] = number
        numbers[str(package.get("name")), str(package.get("version"))] = number
    ways: dict[int, set[frozenset[str]]] = {}
    todo: list[tuple[int, frozenset[str]]] = [
        (number, frozenset())
        for number, package in enumerate(packages)
        if {"virtual", "editable"} & set(_part(package, "source"))
    ]
    while todo:
        number, markers = todo.pop()
        known = ways.setdefault(number, set())
        if any(one <= markers for one in known):
            continue
        known -= {one for one in known if markers <= one}
        known.add(frozenset() if len(known) >= MAX_WAYS else markers)
        for edge in _edges(packages[number]):
            version = str(edge["version"]) if "version" in edge else None
            target = numbers.get((str(edge.get("name")), version))
            marker = {str(edge["marker"])} if "marker" in edge else set()
            if target is not None:
                todo.append((target, markers | marker))
    return ways


def _edges(package: Table) -> list[Table]:
    extras = [edge for edges in _part(package, "optional-dependencies").values() for edge in _items(edges)]
    # extras of a project are not asked for; those of its packages are, as they stand in the lock for that
    rooted = {"virtual", "editable"} & set(_part(package, "source"))
    return [*_items(package.get("dependencies")), *([] if rooted else extras)]


def _joined(ways: set[frozenset[str]], package: Table, notes: list[Note]) -> str:
    """Return one marker for all the ways to a package; empty when one of them has none."""
    if frozenset() in ways:
        return ""
    text = " or ".join(sorted(" and ".join(f"({one})" for one in sorted(way)) for way in ways))
    if len(text) > 500:  # noqa: PLR2004 - a requirement is short
        notes.append(Note(f"/package/{package.get('name')}", "Its conditions are too many: it is always taken."))
        return ""
    return text
