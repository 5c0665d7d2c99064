"""An `Environment` as the document that Azure ML's SDK v1 writes, and back.

The document is what `cloche.formats.azure_v1` reads and writes, so an environment means here what it means
to `cloche env import` and to the server.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from cloche.core._notes import refused, tell, unavailable
from cloche.core._sections import DockerBuildContext, DockerImagePlatform, SparkPackage
from cloche.core.conda_dependencies import CondaDependencies
from cloche.core.container_registry import ContainerRegistry
from cloche.core.databricks import EggLibrary, JarLibrary, MavenLibrary, PyPiLibrary, RCranLibrary
from cloche.exceptions import UserErrorException, told_as
from cloche.formats.azure_v1 import CONDA, DOCKERFILE, MAIN, of_azure_json, write_azure_v1
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.store.wheel_refs import referring

if TYPE_CHECKING:
    from cloche.core.environment import Environment

Table = dict[str, Any]
OWN: Final = "cloche"
WHEELS: Final = "/api/v1/wheels/"
"""What the address of a private wheel holds."""
_LIBRARIES: Final[Mapping[str, tuple[str, type]]] = {
    "maven_libraries": ("mavenLibraries", MavenLibrary),
    "pypi_libraries": ("pypiLibraries", PyPiLibrary),
    "rcran_libraries": ("rcranLibraries", RCranLibrary),
    "jar_libraries": ("jarLibraries", JarLibrary),
    "egg_libraries": ("eggLibraries", EggLibrary),
}
_OURS: Final = ("apt", "build_variables", "description", "tags")


def camel(name: str) -> str:
    """Return the name of a member in JSON."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def plain(value: object) -> object:
    """Return a value as JSON holds it, sections as objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return {camel(one.name): plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def document_of(environment: "Environment") -> Table:
    """Return the document of an environment, in the SDK's order, with what it cannot say under `cloche`."""
    python = environment.python
    document: Table = {
        "name": environment.name,
        "version": environment.version,
        "environmentVariables": dict(environment.environment_variables),
        "python": {
            "userManagedDependencies": python.user_managed_dependencies,
            "interpreterPath": python.interpreter_path,
            "condaDependenciesFile": None,
            "baseCondaEnvironment": python.base_conda_environment,
            "condaDependencies": python.conda_dependencies.as_dict(),
        },
        "docker": _docker(environment),
        "spark": plain(environment.spark),
        "databricks": plain(environment.databricks),
        "inferencingStackVersion": environment.inferencing_stack_version,
    }
    own = _own(environment)
    return {**document, OWN: own} if own else document


def _docker(environment: "Environment") -> Table:
    docker = environment.docker
    registry = docker.base_image_registry
    document: Table = {
        "enabled": docker.enabled,
        "baseImage": docker.base_image,
        "baseDockerfile": docker.base_dockerfile,
        "sharedVolumes": docker.shared_volumes,
        "shmSize": docker.shm_size,
        "arguments": list(docker.arguments),
        "baseImageRegistry": {"address": registry.address, "username": registry.username, "password": None},
    }
    if docker.build_context is not None:
        document["buildContext"] = plain(docker.build_context)
    if docker.platform is not None:
        document["platform"] = plain(docker.platform)
    return document


def _own(environment: "Environment") -> Table:
    own: Table = {**environment._rest}
    said = {
        "apt": list(environment.apt_packages),
        "build_variables": dict(environment.build_variables),
        "description": environment.description,
        "tags": dict(environment.tags),
    }
    own |= {name: value for name, value in said.items() if value}
    if environment.docker.gpu_support:
        own["docker"] = {**own.get("docker", {}), "gpu_support": True}
    return own


def definition_of(environment: "Environment") -> Definition:
    """Return what an environment says as a definition. Raises `UserErrorException` with the format's codes."""
    _check(environment)
    document = document_of(environment)
    _refer(document)
    with told_as(UserErrorException):
        found = of_azure_json(document)
    packages = environment.python.conda_dependencies
    quiet = not [*packages.conda_packages, *packages.pip_packages]
    tell(note for note in found.notes if not (quiet and note.pointer.startswith("/python/condaDependencies")))
    return found.definition


def _refer(document: Table) -> None:
    """Put references to private wheels in place of their addresses among pip's packages."""
    wheels: list[Table] = []
    for one in document["python"]["condaDependencies"]["dependencies"]:
        if isinstance(one, dict):
            found = {line: _references(line) for line in one["pip"] if WHEELS in line}
            one["pip"] = [line for line in one["pip"] if not found.get(line)]
            wheels += [reference for listed in found.values() for reference in listed]
    if wheels:
        own = document.setdefault(OWN, {})
        python = own.get("python", {})
        own["python"] = {**python, "wheels": [*python.get("wheels", []), *wheels]}


def _references(line: str) -> list[Table]:
    said = Definition(python=PythonSection(pip=(line,)))
    return [one.model_dump() for one in referring(said).python.wheels]


def _check(environment: "Environment") -> None:
    """Refuse what no definition can say."""
    if environment.r is not None:
        raise unavailable("The section r", "Cloche has no R.", "Set it to None.")
    registry = environment.docker.base_image_registry
    if registry.username or registry.password or registry.registry_identity:
        raise unavailable("Credentials of a registry", "Secrets of projects cannot be kept yet.")
    if not environment.docker.shared_volumes:
        raise unavailable("docker.shared_volumes=False", "Nothing here shares volumes.", "Leave it as it is.")
    if environment.docker.gpu_support and environment.docker.base_image:
        raise refused(
            "gpu_image_twice",
            "docker.gpu_support chooses the base image for GPUs, and docker.base_image names another.",
            todo="Say one of the two.",
        )


def fill(environment: "Environment", definition: Definition) -> None:
    """Make an environment say what a definition says."""
    files = write_azure_v1(definition, environment.name).files
    import json  # noqa: PLC0415 - only where something is read

    read(environment, json.loads(files[MAIN]), files.get(CONDA), files.get(DOCKERFILE))


def read(environment: "Environment", document: Table, conda: str | None, dockerfile: str | None) -> None:
    """Make an environment say what a document and the two files beside it say; unknown members are ignored."""
    environment.environment_variables = {
        str(name): str(value) for name, value in (document.get("environmentVariables") or {}).items()
    }
    environment.inferencing_stack_version = document.get("inferencingStackVersion")
    _read_python(environment, document.get("python") or {}, conda)
    _read_docker(environment, document.get("docker") or {}, dockerfile)
    _read_spark(environment, document.get("spark") or {})
    databricks = document.get("databricks") or {}
    for name, (member, kind) in _LIBRARIES.items():
        setattr(environment.databricks, name, [_library(kind, one) for one in databricks.get(member) or []])
    own: Table = dict(document.get(OWN) or {})
    environment.apt_packages = list(own.get("apt", []))
    environment.build_variables = dict(own.get("build_variables", {}))
    environment.description = str(own.get("description", ""))
    environment.tags = dict(own.get("tags", {}))
    docker = dict(own.get("docker", {}))
    environment.docker.gpu_support = bool(docker.pop("gpu_support", False))
    rest = {name: value for name, value in own.items() if name not in _OURS and name != "docker"}
    environment._rest = {**rest, "docker": docker} if docker else rest


def _read_python(environment: "Environment", section: Table, conda: str | None) -> None:
    python = environment.python
    python.user_managed_dependencies = bool(section.get("userManagedDependencies"))
    python.interpreter_path = section.get("interpreterPath") or "python"
    python.base_conda_environment = section.get("baseCondaEnvironment")
    inline = section.get("condaDependencies")
    if conda is not None:
        python.conda_dependencies = CondaDependencies._of_text(conda)
    elif inline:
        from cloche.formats.yaml_text import write_yaml  # noqa: PLC0415 - seldom needed

        python.conda_dependencies = CondaDependencies._of_text(write_yaml(inline))
    else:
        python.conda_dependencies = CondaDependencies()


def _read_docker(environment: "Environment", section: Table, dockerfile: str | None) -> None:
    docker = environment.docker
    docker.enabled = bool(section.get("enabled"))
    docker.base_image = section.get("baseImage")
    docker.base_dockerfile = dockerfile or section.get("baseDockerfile")
    docker.shm_size = section.get("shmSize")
    docker.arguments = [str(one) for one in section.get("arguments") or []]
    docker.shared_volumes = section.get("sharedVolumes") is not False
    registry = section.get("baseImageRegistry") or {}
    docker.base_image_registry = ContainerRegistry(
        registry.get("address"), registry.get("username"), registry.get("password")
    )
    context, platform = section.get("buildContext"), section.get("platform")
    if context:
        place = context.get("locationType", OWN), context.get("location", "")
        docker.build_context = DockerBuildContext(*place, context.get("dockerfilePath") or "Dockerfile")
    docker.platform = DockerImagePlatform(platform["os"], platform["architecture"]) if platform else None


def _read_spark(environment: "Environment", section: Table) -> None:
    environment.spark.repositories = list(section.get("repositories") or [])
    environment.spark.packages = [SparkPackage(**one) for one in section.get("packages") or []]
    environment.spark.precache_packages = section.get("precachePackages") is not False


def _library(kind: type, said: object) -> object:
    table = said if isinstance(said, Mapping) else {"library": said}
    known = {one.name: table[one.name] for one in fields(kind) if table.get(one.name) is not None}
    return kind(**known)
