"""The folder that Azure ML's SDK v1 writes (`save_to_directory`), in both directions.

`azureml_environment.json` with names in camelCase (read without regard to case), `conda_dependencies.yml`
and `BaseDockerfile`. What that SDK cannot say stands in a member `cloche`, which it does not read.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from cloche._errors import Invalid
from cloche.formats.cloche_yaml import validated
from cloche.formats.conda_yaml import conda_data, of_conda, with_lines
from cloche.formats.docker_arguments import read_arguments, write_arguments
from cloche.formats.reading import Exported, Imported, Note, invalid
from cloche.formats.yaml_text import Document, read_yaml, write_yaml
from cloche_shared.contracts.definition import CondaSection, Definition, DockerSection

MAIN: Final = "azureml_environment.json"
CONDA: Final = "conda_dependencies.yml"
DOCKERFILE: Final = "BaseDockerfile"
WHAT: Final = "The environment of Azure ML cannot be used as written."
_DEFAULT_IMAGES: Final = "mcr.microsoft.com/azureml/"
_DEFAULT_SHM: Final = "2g"
_OWN: Final = "cloche"
_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
Table = dict[str, Any]


def read_azure_v1(files: Mapping[str, str]) -> Imported:
    """Return what a folder of Azure ML's SDK v1 says; `files` are its texts by name.

    Raises `Invalid` (`invalid_azure`, `invalid_conda_spec`, `argument_not_allowed` …).
    """
    if MAIN not in files:
        raise invalid(
            "invalid_azure", WHAT, "", f"There is no {MAIN}.", "Name the folder that save_to_directory wrote."
        )
    try:
        table = json.loads(files[MAIN])
    except ValueError as error:
        raise invalid("invalid_azure", WHAT, f"/{getattr(error, 'lineno', 1)}", f"It is no JSON: {error}.") from None
    if not isinstance(table, dict):
        raise invalid("invalid_azure", WHAT, "", "It holds no object.")
    conda = read_yaml(files[CONDA]) if CONDA in files else None
    return _Reader(table).read(conda, files.get(DOCKERFILE))


def of_azure_json(table: Mapping[str, Any]) -> Imported:
    """Return what an environment says that the SDK v1 or its REST interface gave as one object."""
    return _Reader(dict(table)).read(None, None)


class _Reader:
    def __init__(self, table: Table) -> None:
        self._table = _lowered(table)
        self._notes: list[Note] = []

    def read(self, conda: Document | None, dockerfile: str | None) -> Imported:
        """Return what the object says, with the two files that stand beside it."""
        variables = self._texts("environmentvariables")
        python, conda_variables = self._python(self._section("python"), conda)
        docker = self._docker(self._section("docker"), dockerfile)
        own = self._table.get(_OWN)
        if "docker" in (own if isinstance(own, dict) else {}):
            self._notes = [one for one in self._notes if one.pointer != "/docker/baseImage"]
        said: Table = {
            "python": python,
            "docker": docker,
            "spark": self._spark(self._section("spark")),
            "databricks": self._databricks(self._section("databricks")),
            "inferencing_stack_version": self._table.get("inferencingstackversion"),
            "variables": {**conda_variables, **variables},
        }
        for name in ("version", "assetid"):
            if self._table.get(name) is not None:
                self._note(f"/{name}", "Versions and ids are given by the server.")
        if self._table.get("r") is not None:
            self._note("/r", "R is not available; the section is left out.")
        known = {"name", "environmentvariables", "r", _OWN, "version", "assetid", *said} | {"inferencingstackversion"}
        for name in sorted(set(self._table) - known):
            self._note(f"/{name}", f"{name[:80]} is none of the SDK's members; it is left out.")
        merged = _merged({name: value for name, value in said.items() if value is not None}, own)
        definition = validated(merged, "invalid_azure", WHAT)
        return Imported(_quiet(definition), str(self._table.get("name") or ""), tuple(self._notes))

    def _note(self, pointer: str, text: str) -> None:
        self._notes.append(Note(pointer, text))

    def _section(self, name: str) -> Table:
        found = self._table.get(name)
        return _lowered(found) if isinstance(found, dict) else {}

    def _texts(self, name: str) -> dict[str, str]:
        found = self._table.get(name) or {}
        if not isinstance(found, dict):
            raise invalid("invalid_azure", WHAT, f"/{name}", "It is an object.")
        return {str(key): str(value) for key, value in found.items()}

    def _python(self, section: Table, conda: Document | None) -> tuple[Table, dict[str, str]]:
        managed = bool(section.get("usermanageddependencies"))
        path = section.get("interpreterpath")
        if managed:
            if conda is not None or section.get("condadependencies"):
                self._note("/python/condaDependencies", "The environment is user-managed: packages are not installed.")
            return {"user_managed": True, **({"interpreter_path": path} if path else {})}, {}
        if path not in {None, "", "python"}:
            self._note("/python/interpreterPath", "The interpreter is used only where dependencies are user-managed.")
        if section.get("condadependenciesfile") and conda is None:
            self._note("/python/condaDependenciesFile", "The file that is named is not beside this one.")
        found = self._conda(section, conda)
        python = found.definition.python.model_dump(mode="json", exclude_defaults=True) if found else {}
        base = section.get("basecondaenvironment")
        if base:
            python.setdefault("conda", {})["base_environment"] = base
        return python, dict(found.definition.variables) if found else {}

    def _conda(self, section: Table, conda: Document | None) -> Imported | None:
        if conda is not None:
            try:
                found = of_conda(conda.data)
            except Invalid as error:
                raise with_lines(error, conda) from None
        elif section.get("condadependencies"):
            found = of_conda(section["condadependencies"], "/python/condaDependencies")
        else:
            return None
        self._notes += found.notes
        return found

    def _docker(self, section: Table, dockerfile: str | None) -> Table:
        said: Table = {"enabled": True} if section.get("enabled") else {}
        text = dockerfile if dockerfile is not None else section.get("basedockerfile")
        image = section.get("baseimage")
        if text:
            said["dockerfile"] = text
        elif image and (said or not str(image).startswith(_DEFAULT_IMAGES)):
            said["base_image"] = image
        elif image:
            self._note("/docker/baseImage", "It is the SDK's default, and docker is not enabled: it is left out.")
        said |= self._context(section.get("buildcontext"))
        said |= self._registry(_lowered(section.get("baseimageregistry") or {}))
        if section.get("sharedvolumes") is False:
            self._note("/docker/sharedVolumes", "Volumes are not shared here; the attribute is left out.")
        if section.get("gpusupport"):
            said["gpu_support"] = True
        return said | self._container(section, enabled="enabled" in said)

    def _container(self, section: Table, *, enabled: bool) -> Table:
        said: Table = {}
        arguments, shm_size = read_arguments(section.get("arguments") or [], "/docker/arguments")
        size = shm_size or section.get("shmsize")
        if size and (enabled or size != _DEFAULT_SHM):
            said["shm_size"] = str(size).lower()
        if section.get("arguments"):
            said["arguments"] = arguments.model_dump(mode="json")
        platform = _lowered(section.get("platform") or {})
        if platform:
            machine = str(platform.get("architecture", "amd64")).lower()
            said["platform"] = f"{str(platform.get('os', 'linux')).lower()}-{_ARCHITECTURES.get(machine, machine)}"
        return said

    def _context(self, context: object) -> Table:
        if not isinstance(context, dict):
            return {}
        found = _lowered(context)
        if not str(found.get("location", "")).startswith("sha256:"):
            detail = "The build context lies in Azure or a repository; its files are not here."
            raise invalid(
                "build_context_elsewhere", WHAT, "/docker/buildContext", detail, "Download it, and upload it."
            )
        return {
            "build_context": {
                "digest": found["location"],
                "dockerfile_path": found.get("dockerfilepath") or "Dockerfile",
            }
        }

    def _registry(self, registry: Table) -> Table:
        if not registry.get("address"):
            return {}
        if registry.get("username") or registry.get("password"):
            text = "User name and password are not taken over: make secrets of them, and name those."
            self._note("/docker/baseImageRegistry", text)
        if registry.get("registryidentity"):
            self._note("/docker/baseImageRegistry/registryIdentity", "Identities of Azure are not available.")
        return {"registry": {"address": registry["address"]}}

    def _spark(self, section: Table) -> Table | None:
        names = {"repositories": "repositories", "packages": "packages", "precachepackages": "precache_packages"}
        said = {ours: section[theirs] for theirs, ours in names.items() if section.get(theirs) not in (None, [], True)}
        if "packages" in said:
            said["packages"] = [_lowered(one) if isinstance(one, dict) else one for one in said["packages"]]
        return said or None

    def _databricks(self, section: Table) -> Table | None:
        said = {name: list(read(section.get(theirs) or [])) for name, theirs, read in _LIBRARIES if section.get(theirs)}
        if section.get("cluster"):
            self._note("/databricks/cluster", "Clusters of Databricks are not available.")
        return said or None


def _maven(items: list[Any]) -> Iterator[object]:
    for item in items:
        one = _lowered(item)
        exclusions = {"exclusions": one["exclusions"]} if one.get("exclusions") else {}
        yield {
            "coordinates": one.get("coordinates"),
            **({"repo": one["repo"]} if one.get("repo") else {}),
            **exclusions,
        }


def _packages(items: list[Any]) -> Iterator[object]:
    for item in items:
        one = _lowered(item)
        yield {"package": one.get("package"), **({"repo": one["repo"]} if one.get("repo") else {})}


def _libraries(items: list[Any]) -> Iterator[object]:
    for item in items:
        yield _lowered(item).get("library") if isinstance(item, dict) else item


_LIBRARIES: Final[tuple[tuple[str, str, Callable[[list[Any]], Iterator[object]]], ...]] = (
    ("maven_libraries", "mavenlibraries", _maven),
    ("pypi_libraries", "pypilibraries", _packages),
    ("rcran_libraries", "rcranlibraries", _packages),
    ("jar_libraries", "jarlibraries", _libraries),
    ("egg_libraries", "egglibraries", _libraries),
)


def _lowered(table: object) -> Table:
    """Return an object with its names in lower case: the SDK's REST interface mixes them."""
    if not isinstance(table, dict):
        raise invalid("invalid_azure", WHAT, "", "A section is an object.")
    return {str(name).lower(): value for name, value in table.items()}


def _merged(said: Table, own: object) -> Table:
    if not isinstance(own, dict):
        return said
    merged = dict(said)
    for name, value in own.items():
        here = merged.get(name)
        merged[name] = _merged(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return merged


def _quiet(definition: Definition) -> Definition:
    """Leave out a docker section that says nothing."""
    return definition.model_copy(update={"docker": None}) if definition.docker == DockerSection() else definition


# --- writing


def write_azure_v1(definition: Definition, name: str) -> Exported:
    """Return the folder's files. All of a definition can be said; secrets' names stand in `cloche`."""
    section = definition.python
    docker = definition.docker or DockerSection()
    conda = section.conda or CondaSection()
    files = {}
    document: Table = {
        "name": name,
        "version": None,
        "environmentVariables": dict(definition.variables),
        "python": {
            "userManagedDependencies": section.user_managed,
            "interpreterPath": section.interpreter_path or "python",
            "condaDependenciesFile": None,
            "baseCondaEnvironment": conda.base_environment,
        },
        "docker": _docker_json(docker),
        "spark": _spark_json(definition),
        "databricks": _databricks_json(definition),
        "inferencingStackVersion": definition.inferencing_stack_version,
    }
    own = _own(definition)
    if own:
        document[_OWN] = own
    if docker.dockerfile is not None:
        del document["docker"]["baseDockerfile"]
        files[DOCKERFILE] = docker.dockerfile
    notes = []
    if not section.user_managed:
        data = {"name": "project_environment", **conda_data(definition.model_copy(update={"variables": {}}))}
        files[CONDA] = write_yaml(data)
        if section.version is None and not any(str(one).startswith("python") for one in conda.packages):
            notes.append(Note("/python/version", "No Python is named, which Azure's SDK asks for."))
    return Exported({MAIN: json.dumps(document, indent=4) + "\n", **files}, tuple(notes))


def _docker_json(docker: DockerSection) -> Table:
    registry = docker.registry
    context = docker.build_context
    document: Table = {
        "enabled": docker.enabled,
        "baseImage": docker.base_image,
        "baseDockerfile": None,
        "sharedVolumes": True,
        "shmSize": docker.shm_size,
        "arguments": write_arguments(docker.arguments),
        "baseImageRegistry": {"address": registry.address if registry else None, "username": None, "password": None},
    }
    if context is not None:
        location = {"locationType": _OWN, "location": context.digest, "dockerfilePath": context.dockerfile_path}
        document["buildContext"] = location
    if docker.platform is not None:
        system, _, machine = docker.platform.partition("-")
        machines = {ours: theirs for theirs, ours in _ARCHITECTURES.items()}
        document["platform"] = {"os": system.capitalize(), "architecture": machines.get(machine, machine)}
    return document


def _spark_json(definition: Definition) -> Table:
    spark = definition.spark
    return {
        "repositories": list(spark.repositories) if spark else [],
        "packages": [one.model_dump() for one in spark.packages] if spark else [],
        "precachePackages": spark.precache_packages if spark else True,
    }


def _databricks_json(definition: Definition) -> Table:
    found = definition.databricks
    said = found.model_dump(mode="json") if found else {}
    return {
        "mavenLibraries": said.get("maven_libraries", []),
        "pypiLibraries": said.get("pypi_libraries", []),
        "rcranLibraries": said.get("rcran_libraries", []),
        "jarLibraries": [{"library": one} for one in said.get("jar_libraries", [])],
        "eggLibraries": [{"library": one} for one in said.get("egg_libraries", [])],
    }


def _own(definition: Definition) -> Table:
    """Return what the SDK has no names for, or would read otherwise, as a part of our own document."""
    said: Table = definition.model_dump(mode="json", exclude_defaults=True)
    own: Table = {name: said[name] for name in ("apt", "build_variables", "description", "tags") if name in said}
    section: Table = said.get("python", {})
    python: Table = {name: section[name] for name in ("wheels",) if name in section}
    indexes = section.get("pip_options", {}).get("package_indexes")
    if indexes:
        python["pip_options"] = {"package_indexes": indexes}
    if definition.python.conda is not None and not definition.python.conda.packages:
        python["conda"] = section.get("conda", {})
    docker: Table = {name: one for name, one in said.get("docker", {}).items() if name in {"gpu_support", "registry"}}
    docker |= _mistaken(definition.docker or DockerSection())
    return own | {name: part for name, part in (("python", python), ("docker", docker)) if part}


def _mistaken(docker: DockerSection) -> Table:
    """Return what looks like the SDK's defaults, which are left out where docker is not enabled."""
    if docker.enabled:
        return {}
    image = docker.base_image if (docker.base_image or "").startswith(_DEFAULT_IMAGES) else None
    said = {"base_image": image, "shm_size": docker.shm_size if docker.shm_size == _DEFAULT_SHM else None}
    return {name: value for name, value in said.items() if value is not None}
