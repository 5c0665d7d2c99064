"""The sections of an `Environment`. Each has a fixed set of attributes; any other name raises `AttributeError`."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloche.core._notes import refused, unavailable
from cloche.core.conda_dependencies import CondaDependencies
from cloche.core.container_registry import ContainerRegistry

DEFAULT_CPU_IMAGE: Final = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20251130.v1"
DEFAULT_GPU_IMAGE: Final = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.8-cudnn8-ubuntu22.04"
DEFAULT_SHM_SIZE: Final = "2g"


class PythonSection:
    """Interpreter and packages.

    `user_managed_dependencies`: nothing is installed, `interpreter_path` has everything; else the packages of
    `conda_dependencies` are. `conda_dependencies_file` names a file to take them from.
    """

    __slots__ = (
        "_base_conda_environment",
        "_conda_dependencies",
        "_conda_dependencies_file",
        "interpreter_path",
        "user_managed_dependencies",
    )

    def __init__(self) -> None:
        self.user_managed_dependencies = False
        self.interpreter_path: str | None = "python"
        self._conda_dependencies = CondaDependencies()
        self._conda_dependencies_file: str | None = None
        self._base_conda_environment: str | None = None

    @property
    def conda_dependencies(self) -> CondaDependencies:
        """The packages."""
        return self._conda_dependencies

    @conda_dependencies.setter
    def conda_dependencies(self, value: CondaDependencies | None) -> None:
        if value is not None and not isinstance(value, CondaDependencies):
            raise TypeError(f"conda_dependencies are CondaDependencies, not {type(value).__name__}.")
        self._conda_dependencies = value or CondaDependencies()

    @property
    def conda_dependencies_file(self) -> str | None:
        """The file that the packages were taken from; setting it reads the file."""
        return self._conda_dependencies_file

    @conda_dependencies_file.setter
    def conda_dependencies_file(self, value: str | None) -> None:
        if value is not None:
            self._conda_dependencies = CondaDependencies(value)
        self._conda_dependencies_file = value

    @property
    def base_conda_environment(self) -> str | None:
        """The conda environment to start from."""
        return self._base_conda_environment

    @base_conda_environment.setter
    def base_conda_environment(self, value: str | None) -> None:
        self._base_conda_environment = value


@dataclass(slots=True)
class DockerImagePlatform:
    """What an image is made for."""

    os: str = "Linux"
    architecture: str = "amd64"


@dataclass(slots=True)
class DockerBuildContext:
    """A folder to build an image from. Building images is not available yet, so none can be uploaded."""

    location_type: str = "cloche"
    location: str = ""
    dockerfile_path: str = "Dockerfile"

    @staticmethod
    def from_local_directory(workspace: object, path: str, dockerfile_path: str = "Dockerfile") -> "DockerBuildContext":
        """Upload a folder. Raises `UserErrorException` (`not_available`)."""
        del workspace, path, dockerfile_path
        raise unavailable("A build context", "This server does not make images yet.")


class DockerSection:
    """Image and container: a base image, a Dockerfile or a build context at most one; setting one clears the others.

    `gpu_support` takes the base image for GPUs where none is named.
    """

    __slots__ = (
        "_base_dockerfile",
        "_base_image",
        "_build_context",
        "arguments",
        "base_image_registry",
        "enabled",
        "gpu_support",
        "platform",
        "shared_volumes",
        "shm_size",
    )

    def __init__(self) -> None:
        self.enabled = False
        self.shared_volumes = True
        self.shm_size: str | None = DEFAULT_SHM_SIZE
        self.arguments: list[str] = []
        self.gpu_support = False
        self.base_image_registry = ContainerRegistry()
        self.platform: DockerImagePlatform | None = None
        self._base_image: str | None = None
        self._base_dockerfile: str | None = None
        self._build_context: DockerBuildContext | None = None

    @property
    def base_image(self) -> str | None:
        """The image below the packages."""
        return self._base_image

    @base_image.setter
    def base_image(self, value: str | None) -> None:
        self._base_image = value
        if value is not None:
            self._base_dockerfile = self._build_context = None

    @property
    def base_dockerfile(self) -> str | None:
        """The text of a Dockerfile; it may be set as text, as the path of a file, or as a file that is open."""
        return self._base_dockerfile

    @base_dockerfile.setter
    def base_dockerfile(self, value: "str | os.PathLike[str] | io.TextIOBase | None") -> None:
        self._base_dockerfile = None if value is None else _dockerfile(value)
        if value is not None:
            self._base_image = self._build_context = None

    @property
    def build_context(self) -> DockerBuildContext | None:
        """A folder to build from."""
        return self._build_context

    @build_context.setter
    def build_context(self, value: DockerBuildContext | None) -> None:
        self._build_context = value
        if value is not None:
            self._base_image = self._base_dockerfile = None


def _dockerfile(value: "str | os.PathLike[str] | io.TextIOBase") -> str:
    if isinstance(value, io.TextIOBase):
        return value.read()
    text = os.fspath(value)
    one_line = "\n" not in text
    if one_line and Path(text).is_file():
        return Path(text).read_text(encoding="utf-8")
    if one_line and not text.lstrip().upper().startswith(("FROM ", "ARG ", "#")):
        raise refused("dockerfile_not_found", f"There is no Dockerfile {text}.", todo="Name a file, or give its text.")
    return text


@dataclass(slots=True)
class SparkPackage:
    """A library by its Maven coordinates."""

    group: str | None = None
    artifact: str | None = None
    version: str | None = None


@dataclass(slots=True)
class SparkSection:
    """Libraries of Spark. Cloche keeps them in files and refuses to register them: it has no Spark."""

    repositories: list[str] = field(default_factory=list)
    packages: list[SparkPackage] = field(default_factory=list)
    precache_packages: bool = True


@dataclass(slots=True)
class RCranPackage:
    """A package of CRAN."""

    name: str | None = None
    version: str | None = None
    repository: str | None = None


@dataclass(slots=True)
class RGitHubPackage:
    """A package of R on GitHub."""

    repository: str | None = None
    auth_token: str | None = None


@dataclass(slots=True)
class RSection:
    """Packages of R. Cloche has no R: an environment with such a section is refused."""

    r_version: str | None = None
    user_managed: bool = False
    rscript_path: str | None = None
    snapshot_date: str | None = None
    cran_packages: list[RCranPackage] = field(default_factory=list)
    github_packages: list[RGitHubPackage] = field(default_factory=list)
    custom_url_packages: list[str] = field(default_factory=list)
    bioconductor_packages: list[str] = field(default_factory=list)
