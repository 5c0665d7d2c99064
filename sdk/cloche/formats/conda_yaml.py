"""Conda's environment files (`environment.yml`), which MLflow and Azure ML write too."""

from collections.abc import Iterable, Mapping
from typing import Final

from cloche._errors import Invalid
from cloche.formats.reading import Exported, Imported, Note, invalid, kept_packages, option_lines, requirements_of
from cloche.formats.yaml_text import Document, Value, read_yaml, write_yaml
from cloche_shared.contracts.definition import CondaSection, Definition, PipOptions, PythonSection
from cloche_shared.definitions.conda import ConfusedError, canonical_channel, canonical_spec, name_of
from cloche_shared.errors import Violation

WHAT: Final = "The conda specification cannot be used as written."
TODO: Final = "Known are name, channels, dependencies (with one `pip:` list), variables and prefix."
_KNOWN: Final = frozenset(("name", "channels", "dependencies", "variables", "prefix"))


def read_conda(text: str) -> Imported:
    """Return what a conda environment file says. Raises `Invalid` (`invalid_yaml`, `invalid_conda_spec` …)."""
    document = read_yaml(text)
    try:
        return of_conda(document.data)
    except Invalid as error:
        raise with_lines(error, document) from None


def with_lines(error: Invalid, document: Document) -> Invalid:
    """Return the error with the line of each place in its sentence."""
    told = []
    for one in error.violations:
        line = document.line(one.pointer)
        told.append(Violation(one.pointer, one.code, f"Line {line}: {one.detail}" if line else one.detail))
    why = told[0].detail if told else error.why
    return Invalid(error.code, error.what, why=why, todo=error.todo, violations=told, extra=error.extra)


def of_conda(data: Value, above: str = "") -> Imported:
    """Return what the data of a conda environment file says; pointers are below `above`."""
    reader = _Reader(above)
    reader.read(data)
    return reader.result()


class _Reader:
    def __init__(self, above: str) -> None:
        self._above = above
        self._notes: list[Note] = []
        self._packages: list[str] = []
        self._channels: list[str] = []
        self._pip: tuple[str, ...] = ()
        self._options = PipOptions()
        self._version: str | None = None
        self._variables: dict[str, str] = {}
        self._pip_note = ""
        self._name = ""

    def read(self, data: Value) -> None:
        """Read the whole."""
        if not isinstance(data, Mapping):
            raise self._fault("", "the file holds no mapping.")
        for name in data:
            if name not in _KNOWN:
                raise self._fault(f"/{name}", f"{name[:80]!r} is none of its members.")
        self._name = str(data.get("name") or "")
        if data.get("prefix"):
            self._note("/prefix", "The prefix is where the environment was; it is not used.")
        self._read_channels(data.get("channels") or [])
        self._read_variables(data.get("variables") or {})
        self._read_dependencies(data.get("dependencies") or [])

    def result(self) -> Imported:
        """Return what was read."""
        others = [spec for spec in self._packages if name_of(spec) != "pip"]
        if not others:
            # without other packages nothing needs conda: the packages of pip go onto an interpreter of the host
            if self._pip_note:
                self._note(self._pip_note, "pip itself is left out: packages are installed without it.")
            if self._channels:
                self._note("/channels", "No conda packages are asked for, so no channel is.")
            conda = None
        else:
            conda = CondaSection(packages=tuple(self._packages), channels=tuple(self._channels))
        self._notes += kept_packages(self._pip)
        section = PythonSection(version=self._version, pip=self._pip, pip_options=self._options, conda=conda)
        definition = Definition(python=section, variables=self._variables)
        return Imported(definition, self._name, tuple(self._notes))

    def _fault(self, pointer: str, detail: str, code: str = "invalid_conda_spec") -> Invalid:
        return invalid(code, WHAT, self._above + pointer, detail, TODO)

    def _note(self, pointer: str, text: str) -> None:
        self._notes.append(Note(self._above + pointer, text))

    def _texts(self, value: Value, pointer: str) -> Iterable[tuple[int, str]]:
        if not isinstance(value, list):
            raise self._fault(pointer, "it is a list.")
        for number, one in enumerate(value):
            if not isinstance(one, str):
                raise self._fault(f"{pointer}/{number}", "it is a text.")
            yield number, one

    def _read_channels(self, channels: Value) -> None:
        for number, channel in self._texts(channels, "/channels"):
            if channel == "nodefaults":
                self._note(f"/channels/{number}", "`nodefaults` is left out: only the channels named are asked.")
                continue
            try:
                self._channels.append(canonical_channel(channel))
            except ConfusedError as error:
                raise self._fault(f"/channels/{number}", str(error), "invalid_channel") from None

    def _read_variables(self, variables: Value) -> None:
        if not isinstance(variables, Mapping):
            raise self._fault("/variables", "it is a mapping.")
        for name, value in variables.items():
            if isinstance(value, Mapping | list | None):
                raise self._fault(f"/variables/{name}", "the value of a variable is a text.")
            self._variables[name] = str(value).lower() if isinstance(value, bool) else str(value)

    def _read_dependencies(self, dependencies: Value) -> None:
        if not isinstance(dependencies, list):
            raise self._fault("/dependencies", "it is a list.")
        pips = 0
        for number, one in enumerate(dependencies):
            pointer = f"/dependencies/{number}"
            if isinstance(one, Mapping):
                pips += 1
                if set(one) != {"pip"} or pips > 1:
                    raise self._fault(pointer, "among the dependencies stands one mapping at most, `pip:`.")
                lines = [line for _, line in self._texts(one["pip"] or [], f"{pointer}/pip")]
                self._pip, self._options = requirements_of(lines, f"{self._above}{pointer}/pip")
            elif isinstance(one, str):
                self._read_package(one, pointer)
            else:
                raise self._fault(pointer, "a dependency is a text, or the mapping `pip:`.")

    def _read_package(self, text: str, pointer: str) -> None:
        try:
            spec = canonical_spec(text)
        except ConfusedError as error:
            raise self._fault(pointer, str(error)) from None
        name = name_of(spec)
        if name == "python" and "::" not in spec:
            self._read_python(spec, pointer)
            return
        if name == "pip":
            self._pip_note = pointer
        self._packages.append(spec)

    def _read_python(self, spec: str, pointer: str) -> None:
        asked = spec.removeprefix("python")
        if asked.startswith("==") and "=" in asked[2:]:
            asked = asked.rpartition("=")[0]
            self._note(pointer, "The build of Python is left out, its version is kept.")
        version = asked.removeprefix("==") if asked.startswith("==") else asked.removeprefix("=").removesuffix(".*")
        if not asked:
            return
        if self._version is not None or any(name_of(one) == "python" for one in self._packages):
            raise self._fault(pointer, "the interpreter is named twice.", "python_twice")
        if _is_version(version):
            self._version = version
        else:
            self._packages.append(spec)


def _is_version(text: str) -> bool:
    parts = text.split(".")
    return parts[0] == "3" and len(parts) in {2, 3} and all(one.isdecimal() and len(one) <= 3 for one in parts)  # noqa: PLR2004 - 3.11 and 3.11.7


def conda_data(definition: Definition, name: str = "") -> dict[str, Value]:
    """Return the data of a conda environment file, as far as it can say a definition."""
    section = definition.python
    data: dict[str, Value] = {"name": name} if name else {}
    if section.conda is not None:
        data["channels"] = list(section.conda.channels)
    dependencies: list[Value] = [f"python={section.version}"] if section.version else []
    dependencies += section.conda.packages if section.conda else ()
    lines = [*option_lines(section.pip_options), *section.pip]
    if lines:
        has_pip = section.conda and any(name_of(spec) == "pip" for spec in section.conda.packages)
        if section.conda is None and not has_pip:
            dependencies.append("pip")
        dependencies.append({"pip": list(lines)})
    data["dependencies"] = dependencies
    if definition.variables:
        data["variables"] = dict(definition.variables)
    return data


def write_conda(definition: Definition, name: str = "") -> Exported:
    """Return `environment.yml`, and what it cannot say."""
    return Exported({"environment.yml": write_yaml(conda_data(definition, name))}, tuple(unsaid(definition)))


def unsaid(definition: Definition, *said: str) -> list[Note]:
    """Return a note for each part of a definition beyond Python packages and variables, but those in `said`."""
    parts = definition.model_dump(exclude_defaults=True)
    python = parts.pop("python", {})
    beyond = {f"/{name}" for name in parts if name != "variables"}
    beyond |= {f"/python/{name}" for name in python if name not in {"version", "pip", "pip_options", "conda"}}
    if "package_indexes" in python.get("pip_options", {}):
        beyond.add("/python/pip_options/package_indexes")
    if "base_environment" in python.get("conda", {}):
        beyond.add("/python/conda/base_environment")
    return [Note(one, f"{one[1:].replace('/', '.')} cannot be said there.") for one in sorted(beyond - set(said))]
