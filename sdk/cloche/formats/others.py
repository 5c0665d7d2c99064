"""Azure ML's YAML of v2, MLflow's `python_env.yaml`, and `cog.yaml`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from cloche._errors import Invalid
from cloche.formats.cloche_yaml import validated
from cloche.formats.conda_yaml import of_conda, with_lines
from cloche.formats.reading import Imported, Note, ReadFile, invalid, kept_packages, python_of, requirements_of
from cloche.formats.yaml_text import Document, Value, read_yaml
from cloche_shared.contracts.definition import Definition
from cloche_shared.store.requirements import inline_includes

Table = Mapping[str, Value]


def _mapping(document: Document, code: str, what: str) -> Table:
    if not isinstance(document.data, Mapping):
        raise invalid(code, what, "", "The file holds no mapping.")
    return document.data


def _texts(value: Value, code: str, what: str, pointer: str) -> list[str]:
    if not isinstance(value, list) or any(isinstance(one, Mapping | list | None) for one in value):
        raise invalid(code, what, pointer, "It is a list of texts.")
    return [str(one) for one in value]


def _ignored(table: Table, names: Mapping[str, str]) -> Iterator[Note]:
    yield from (Note(f"/{name}", text) for name, text in names.items() if table.get(name) not in (None, [], {}, ""))


def _unknown(table: Table, known: Iterable[str], code: str, what: str) -> None:
    for name in table:
        if name not in set(known):
            raise invalid(code, what, f"/{name}", f"{name[:80]!r} is none of its members.")


# --- Azure v2

_AZURE: Final = "The environment of Azure ML cannot be used as written."
_AZURE_IGNORED: Final = {
    "version": "Versions are given by the server.",
    "inference_config": "Scoring has paths and ports of its own; the section is left out.",
    "properties": "Properties are set by Azure; they are left out.",
    "datastore": "Datastores of Azure are not available.",
    "os_type": "Environments are made for Linux.",
}


def read_azure_v2(text: str, read: ReadFile) -> Imported:
    """Return what an environment of Azure ML's v2 says; `read` gives the files that it names.

    Raises `Invalid` (`invalid_azure`, `build_context_elsewhere`, `invalid_conda_spec` …).
    """
    document = read_yaml(text)
    try:
        return _azure_v2(_mapping(document, "invalid_azure", _AZURE), read)
    except Invalid as error:
        raise with_lines(error, document) from None


def _azure_v2(table: Table, read: ReadFile) -> Imported:
    known = ("$schema", "name", "description", "tags", "image", "conda_file", "build", *_AZURE_IGNORED)
    _unknown(table, known, "invalid_azure", _AZURE)
    if table.get("build") is not None:
        detail = "A build context is a folder that has to be uploaded first."
        raise invalid("build_context_elsewhere", _AZURE, "/build", detail, "Upload it, and name its digest.")
    notes = list(_ignored(table, _AZURE_IGNORED))
    conda: Value | str = table.get("conda_file")
    said: dict[str, Any] = {}
    if isinstance(conda, str):
        conda = read_yaml(read(conda)).data
    if conda is not None:
        found = of_conda(conda, "/conda_file" if isinstance(table.get("conda_file"), Mapping) else "")
        said = found.definition.model_dump(mode="json", exclude_defaults=True)
        notes += found.notes
    image = table.get("image")
    if image is not None:
        said["docker"] = {"enabled": True, "base_image": image}
    if conda is None:
        said["python"] = {"user_managed": True}
    said |= {name: table[name] for name in ("description", "tags") if table.get(name)}
    return Imported(validated(said, "invalid_azure", _AZURE), str(table.get("name") or ""), tuple(notes))


# --- MLflow

_MLFLOW: Final = "python_env.yaml cannot be used as written."


def read_python_env(text: str, read: ReadFile) -> Imported:
    """Return what MLflow's `python_env.yaml` says; `read` gives the requirements file that it names.

    Raises `Invalid` (`invalid_python_env`, `invalid_requirement` …).
    """
    document = read_yaml(text)
    try:
        return _python_env(_mapping(document, "invalid_python_env", _MLFLOW), read)
    except Invalid as error:
        raise with_lines(error, document) from None


def _python_env(table: Table, read: ReadFile) -> Imported:
    code = "invalid_python_env"
    _unknown(table, ("python", "build_dependencies", "dependencies"), code, _MLFLOW)
    listed = _texts(table.get("dependencies") or [], code, _MLFLOW, "/dependencies")
    lines = inline_includes("dependencies", lambda name: "\n".join(listed) if name == "dependencies" else read(name))
    pip, options = requirements_of(lines.splitlines(), "/dependencies")
    notes = list(
        _ignored(table, {"build_dependencies": "pip, setuptools and wheel are not asked for: they are left out."})
    )
    version = _python_version(table.get("python"), "/python", code, _MLFLOW)
    return Imported(Definition(python=python_of(version, pip, options)), notes=(*notes, *kept_packages(pip)))


def _python_version(value: Value, pointer: str, code: str, what: str) -> str | None:
    if value is None:
        return None
    parts = str(value).split(".")
    if parts[0] != "3" or len(parts) not in {2, 3} or not all(one.isdecimal() for one in parts):
        raise invalid(code, what, pointer, f"{str(value)[:40]!r} is no version such as 3.11 or 3.11.7.")
    return str(value)


# --- cog

_COG: Final = "cog.yaml cannot be used as written."
_COG_IGNORED: Final = {
    "image": "Images are named by Cloche.",
    "predict": "The code is no part of an environment.",
    "train": "The code is no part of an environment.",
    "concurrency": "Concurrency is a setting of a service.",
    "tests": "Tests are not run.",
    "weights": "Weights are models of their own.",
}
_BUILD_IGNORED: Final = {
    "cuda": "The version of CUDA is that of the base image.",
    "cudnn": "The version of cuDNN is that of the base image.",
    "run": "Commands are not run while an environment is made; use a Dockerfile.",
    "pre_install": "Commands are not run while an environment is made; use a Dockerfile.",
    "fast": "It concerns Cog's own builds.",
    "cog_runtime": "It concerns Cog's own server.",
    "sdk_version": "It concerns Cog's own server.",
}


def read_cog(text: str, read: ReadFile) -> Imported:
    """Return what a `cog.yaml` says; `read` gives the requirements file that it names.

    Raises `Invalid` (`invalid_cog`, `invalid_requirement` …).
    """
    document = read_yaml(text)
    try:
        return _cog(_mapping(document, "invalid_cog", _COG), read)
    except Invalid as error:
        raise with_lines(error, document) from None


def _cog(table: Table, read: ReadFile) -> Imported:
    code = "invalid_cog"
    _unknown(table, ("build", "environment", *_COG_IGNORED), code, _COG)
    build = table.get("build") or {}
    if not isinstance(build, Mapping):
        raise invalid(code, _COG, "/build", "It is a mapping.")
    ours = ("gpu", "python_version", "python_packages", "python_requirements", "system_packages")
    for name in build:
        if name not in {*ours, *_BUILD_IGNORED}:
            raise invalid(code, _COG, f"/build/{name}", f"{name[:80]!r} is none of its members.")
    notes = list(_ignored(table, _COG_IGNORED))
    notes += [Note(f"/build{one.pointer}", one.text) for one in _ignored(build, _BUILD_IGNORED)]
    pip, options = _cog_packages(build, read)
    section = python_of(_python_version(build.get("python_version"), "/build/python_version", code, _COG), pip, options)
    said: dict[str, Any] = {
        "python": section.model_dump(mode="json", exclude_defaults=True),
        "variables": dict(_cog_variables(table.get("environment") or [])),
        "apt": _texts(build.get("system_packages") or [], code, _COG, "/build/system_packages"),
    }
    if build.get("gpu") is True:
        said["docker"] = {"gpu_support": True}
    return Imported(validated(said, code, _COG), notes=(*notes, *kept_packages(pip)))


def _cog_packages(build: Table, read: ReadFile) -> tuple[tuple[str, ...], Any]:
    path = build.get("python_requirements")
    listed = _texts(build.get("python_packages") or [], "invalid_cog", _COG, "/build/python_packages")
    if path is not None and listed:
        detail = "Packages stand in python_packages or in python_requirements, not in both."
        raise invalid("invalid_cog", _COG, "/build/python_requirements", detail)
    if path is not None:
        return requirements_of(inline_includes(str(path), read).splitlines(), "/build/python_requirements")
    return requirements_of(listed, "/build/python_packages")


def _cog_variables(value: Value) -> Iterator[tuple[str, str]]:
    for number, pair in enumerate(_texts(value, "invalid_cog", _COG, "/environment")):
        name, equals, text = pair.partition("=")
        if not equals:
            raise invalid("invalid_cog", _COG, f"/environment/{number}", "A variable has the form NAME=value.")
        yield name, text
