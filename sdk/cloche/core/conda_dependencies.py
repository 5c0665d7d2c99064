"""`CondaDependencies`: packages of conda and pip, as an environment's Python section holds them.

Names are compared in their canonical form (`Pillow` is `pillow`), and a package that is added again
replaces what was there, for conda as for pip. `CondaDependencies()` says nothing: the server's default
Python, no package.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

from cloche._imports import read_text
from cloche.core._notes import refused, tell
from cloche.exceptions import UserErrorException, told_as
from cloche.formats.conda_yaml import read_conda
from cloche.formats.yaml_text import Value, read_yaml, write_yaml
from cloche_shared.definitions.conda import ConfusedError, canonical_spec, name_of

CONDA_FILE_NAME: Final = "conda_dependencies.yml"
DEFAULT_NAME: Final = "project_environment"
DEFAULT_CHANNEL: Final = "conda-forge"
_PYTHON: Final = re.compile(r"python\s*(?:[=<>!~\[ ].*)?")
_BEFORE_VERSION: Final = re.compile(r"[\s\[=<>!~;@,]")
_KINDS: Final = {"cpu": "", "gpu": "-gpu"}


def pip_name(requirement: str) -> str:
    """Return the canonical name of the package that a line of pip asks for; that of a wheel stands in its file name."""
    text = requirement.strip()
    if "@" not in text.partition(";")[0] and text.partition("#")[0].partition("?")[0].endswith(".whl"):
        return canonicalize_name(text.rpartition("/")[2].split("-", 1)[0])
    return canonicalize_name(_BEFORE_VERSION.split(text, maxsplit=1)[0])


def _option(line: str) -> str:
    """Return the keyword of an option line: `--index-url` of `--index-url https://…` and of `--index-url=https://…`."""
    return re.split(r"[\s=]", line.strip(), maxsplit=1)[0]


class CondaDependencies:
    """What a conda environment file says: channels, packages of conda, packages and options of pip.

    `conda_dependencies_file_path` names one to begin with. Raises `FileNotFoundError`, `UserErrorException`
    (`invalid_yaml`, `invalid_conda_spec` …).
    """

    __slots__ = ("_channels", "_conda", "_name", "_pip", "_variables")

    def __init__(self, conda_dependencies_file_path: str | os.PathLike[str] | None = None) -> None:
        self._name = DEFAULT_NAME
        self._channels: list[str] = [DEFAULT_CHANNEL]
        self._conda: list[str] = []
        self._pip: list[str] = []
        self._variables: dict[str, str] = {}
        if conda_dependencies_file_path is not None:
            self._take(_text_of(Path(conda_dependencies_file_path)))

    @classmethod
    def _of_text(cls, text: str) -> "CondaDependencies":
        found = cls()
        found._take(text)
        return found

    def _take(self, text: str) -> None:
        with told_as(UserErrorException):
            said = read_conda(text)
            data = read_yaml(text).data
        tell(said.notes)
        assert isinstance(data, dict)  # noqa: S101 - read_conda has refused everything else
        self._name = said.name or DEFAULT_NAME
        self._channels = [str(one) for one in data.get("channels") or []]
        self._variables = dict(said.definition.variables)
        for one in data.get("dependencies") or []:
            if isinstance(one, dict):
                self._pip = [str(line) for line in one.get("pip") or []]
            else:
                self._conda.append(str(one))

    @staticmethod
    def create(
        pip_indexurl: str | None = None,
        pip_packages: Iterable[str] | None = None,
        conda_packages: Iterable[str] | None = None,
        python_version: str | None = None,
        pin_sdk_version: bool = True,
    ) -> "CondaDependencies":
        """Return dependencies of some packages; `pin_sdk_version` concerns packages that Cloche never adds."""
        del pin_sdk_version
        made = CondaDependencies()
        if python_version is not None:
            made.set_python_version(python_version)
        if pip_indexurl is not None:
            made.set_pip_index_url(f"--index-url {pip_indexurl}")
        for package in pip_packages or ():
            made.add_pip_package(package)
        for package in conda_packages or ():
            made.add_conda_package(package)
        return made

    @staticmethod
    def merge_requirements(requirements: Iterable[str]) -> list[str]:
        """Return requirements with all that is said of one package in one line, separated by commas."""
        merged: dict[str, str] = {}
        for one in requirements:
            name = _BEFORE_VERSION.split(one.strip(), maxsplit=1)[0]
            rest = one.strip()[len(name) :].strip()
            key = canonicalize_name(name)
            if key in merged and rest:
                before = merged[key]
                merged[key] = f"{before},{rest}" if before[-1] != "," and before != name else f"{before}{rest}"
            else:
                merged.setdefault(key, f"{name}{rest}")
        return list(merged.values())

    # --- packages of conda

    @property
    def conda_channels(self) -> Iterator[str]:
        """The channels, in the order in which they are asked."""
        return iter([*self._channels])

    @property
    def conda_packages(self) -> Iterator[str]:
        """The packages of conda, Python among them."""
        return iter([*self._conda])

    def add_channel(self, channel: str) -> None:
        """Ask another channel, after those that are there."""
        if channel not in self._channels:
            self._channels.append(channel)

    def remove_channel(self, channel: str) -> None:
        """Ask a channel no longer."""
        self._channels = [one for one in self._channels if one != channel]

    def add_conda_package(self, conda_package: str) -> None:
        """Add a package of conda, in place of what was said of it before. Raises `UserErrorException`."""
        if _PYTHON.fullmatch(conda_package.strip()):
            self._put(conda_package.strip())
            return
        self._put(conda_package)

    def _put(self, package: str) -> None:
        name = _conda_name(package)
        for number, one in enumerate(self._conda):
            if _conda_name(one) == name:
                self._conda[number] = package
                return
        self._conda.insert(0 if name == "python" else len(self._conda), package)

    def remove_conda_package(self, conda_package: str) -> None:
        """Take a package away, by its name or as it was added. Raises `UserErrorException` for Python."""
        name = _conda_name(conda_package)
        if name == "python":
            raise refused("python_missing", "Python cannot be removed.", todo="Choose another with set_python_version.")
        self._conda = [one for one in self._conda if _conda_name(one) != name]

    def set_python_version(self, version: str) -> None:
        """Choose Python, such as `3.12` or `3.11.7`."""
        self._put(f"python={version}")

    def get_python_version(self) -> str | None:
        """Return the version of Python that is asked for; None means the server's default."""
        found = next((one for one in self._conda if _conda_name(one) == "python"), None)
        return None if found is None else found[len("python") :].lstrip("= ") or None

    def add_tensorflow_conda_package(self, core_type: str = "cpu", version: str | None = None) -> None:
        """Add TensorFlow from conda, for `cpu` or `gpu`."""
        self.add_conda_package(f"tensorflow{_kind(core_type)}{f'={version}' if version else ''}")

    def add_tensorflow_pip_package(self, core_type: str = "cpu", version: str | None = None) -> None:
        """Add TensorFlow by pip, for `cpu` or `gpu`."""
        self.add_pip_package(f"tensorflow{_kind(core_type)}{f'=={version}' if version else ''}")

    def add_cntk_package(self, core_type: str = "cpu") -> None:
        """Add CNTK by pip, for `cpu` or `gpu`."""
        self.add_pip_package(f"cntk{_kind(core_type)}")

    # --- packages and options of pip

    @property
    def pip_packages(self) -> Iterator[str]:
        """The packages of pip."""
        return iter([one for one in self._pip if not one.startswith("-")])

    @property
    def pip_options(self) -> Iterator[str]:
        """The options of pip, such as `--index-url https://…`."""
        return iter([one for one in self._pip if one.startswith("-")])

    def add_pip_package(self, pip_package: str) -> None:
        """Add a package of pip at the end, in place of what was said of it before. Raises `UserErrorException`."""
        if not pip_package.strip() or pip_package.lstrip().startswith("-"):
            raise refused("invalid_package", f"Invalid package name {pip_package!r}.", todo="Use set_pip_option.")
        self.remove_pip_package(pip_package)
        self._pip.append(pip_package)

    def remove_pip_package(self, pip_package: str) -> None:
        """Take a package away, by its name."""
        name = pip_name(pip_package)
        self._pip = [one for one in self._pip if one.startswith("-") or pip_name(one) != name]

    def set_pip_requirements(self, pip_requirements: Iterable[str]) -> None:
        """Put lines of a requirements file in place of all packages and options of pip."""
        lines = (line.strip() for line in pip_requirements)
        self._pip = [line for line in lines if line and not line.startswith("#")]

    def set_pip_option(self, pip_option: str) -> None:
        """Set an option, in place of what was said of it before. Raises `UserErrorException`."""
        if not pip_option.startswith("-"):
            raise refused("invalid_option", f"Invalid pip option {pip_option!r}.", "Options begin with a dash.")
        for number, one in enumerate(self._pip):
            if one.startswith("-") and _option(one) == _option(pip_option) != "--extra-index-url":
                self._pip[number] = pip_option
                return
        self._pip.insert(0, pip_option) if pip_option not in self._pip else None

    def set_pip_index_url(self, index_url: str) -> None:
        """Set the index, written as an option (`--index-url https://…`) or as an address."""
        self.set_pip_option(index_url if index_url.startswith("-") else f"--index-url {index_url}")

    def remove_pip_option(self, pip_option: str) -> None:
        """Take an option away, by its keyword."""
        self._pip = [one for one in self._pip if not (one.startswith("-") and _option(one) == _option(pip_option))]

    # --- as a whole

    def as_dict(self) -> dict[str, Value]:
        """Return the data of a conda environment file."""
        dependencies: list[Value] = [*self._conda]
        if self._pip:
            dependencies.append({"pip": [*self._pip]})
        data: dict[str, Value] = {"name": self._name, "dependencies": dependencies, "channels": [*self._channels]}
        return {**data, "variables": dict(self._variables)} if self._variables else data

    def serialize_to_string(self) -> str:
        """Return the text of a conda environment file."""
        return write_yaml(self.as_dict())

    def save(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write the file to a path (or `conda_dependencies.yml` here) and return it."""
        file = Path(path or CONDA_FILE_NAME)
        if file.is_dir():
            raise refused("path_is_folder", f"{file} is a folder.", todo="Name a file.")
        file.write_text(self.serialize_to_string(), encoding="utf-8")
        return str(file)

    def save_to_file(self, base_directory: str, conda_file_path: str | None = None) -> str:
        """Write the file below a folder and return its path there."""
        file = conda_file_path or CONDA_FILE_NAME
        self.save(Path(base_directory) / file)
        return file

    @staticmethod
    def get_default_number_of_packages() -> tuple[int, int]:
        """Return how many packages of conda and of pip stand in fresh dependencies: none."""
        return 0, 0

    @staticmethod
    def sdk_origin_url() -> str:
        """Return the index that packages of pip come from where none is named."""
        return "https://pypi.org/simple"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CondaDependencies) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment] # it changes

    def __repr__(self) -> str:
        return f"CondaDependencies({self.as_dict()!r})"


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"There is no conda specification {path}.")
    with told_as(UserErrorException):
        return read_text(path)


def _kind(core_type: str) -> str:
    if core_type not in _KINDS:
        raise refused("invalid_core_type", f"{core_type!r} is no core type.", todo="Choose 'cpu' or 'gpu'.")
    return _KINDS[core_type]


def _conda_name(package: str) -> str:
    try:
        return name_of(canonical_spec(package))
    except ConfusedError as error:
        raise refused("invalid_conda_spec", str(error)) from error


__all__ = ["CONDA_FILE_NAME", "CondaDependencies"]
