"""`Environment`: what a training or scoring script needs around it, said once, versioned, built once.

    from cloche.core import Environment
    from cloche.core.environment import CondaDependencies

    myenv = Environment(name="myenv")
    myenv.python.conda_dependencies = CondaDependencies.create(pip_packages=["pandas"])
    myenv.register(workspace=ws)

What cannot take effect on a server is refused by it when the environment is registered, by name and reason.
"""

import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloche import _views
from cloche._files import requirements_text
from cloche._imports import read_conda_environment, read_text
from cloche.core import _documents as documents
from cloche.core._builds import DockerImageDetails, ImageBuildDetails, image_details
from cloche.core._notes import log, refused, tell
from cloche.core._process import last_run, workspace_or
from cloche.core._sections import (
    DEFAULT_CPU_IMAGE,
    DEFAULT_GPU_IMAGE,
    DockerBuildContext,
    DockerImagePlatform,
    DockerSection,
    PythonSection,
    RCranPackage,
    RGitHubPackage,
    RSection,
    SparkPackage,
    SparkSection,
)
from cloche.core.conda_dependencies import CondaDependencies
from cloche.core.container_registry import ContainerRegistry
from cloche.core.databricks import DatabricksSection
from cloche.exceptions import AzureMLException, UserErrorException, told_as
from cloche.formats.azure_v1 import CONDA, DOCKERFILE, MAIN
from cloche_shared.contracts.definition import Definition
from cloche_shared.store.requirements import parse_requirements

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace

EXAMPLE: Final = {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"}
"""The variable that each new environment begins with, as in the SDK that people know."""


class EnvironmentReference:
    """The name and version of an environment."""

    __slots__ = ("name", "version")

    def __init__(self, name: str, version: str | None = None) -> None:
        self.name = name
        self.version = version

    def get_environment(self, workspace: "Workspace") -> "Environment":
        """Return what is meant."""
        return Environment.get(workspace, self.name, self.version)


class Environment:
    """Packages, variables and settings around a script, under a name. Unknown attributes raise `AttributeError`.

    `version` is given when it is registered. `apt_packages`, `build_variables`, `description` and `tags` are
    Cloche's own.
    """

    __slots__ = (
        "_kept",
        "_rest",
        "apt_packages",
        "build_variables",
        "databricks",
        "description",
        "docker",
        "environment_variables",
        "inferencing_stack_version",
        "name",
        "python",
        "r",
        "spark",
        "tags",
        "version",
    )

    def __init__(self, name: str, **options: object) -> None:
        if not isinstance(name, str):
            raise TypeError(f"The name of an environment is a text, not {type(name).__name__}.")
        if not name:
            raise refused("invalid_name", "An environment needs a name.")
        self.name = name
        self.version: str | None = None
        self.environment_variables: dict[str, str] = dict(EXAMPLE)
        self.python = PythonSection()
        self.docker = DockerSection()
        self.spark = SparkSection()
        self.databricks = DatabricksSection()
        self.r: RSection | None = None
        self.inferencing_stack_version: str | None = None
        self.apt_packages: list[str] = []
        self.build_variables: dict[str, str] = {}
        self.description = ""
        self.tags: dict[str, str] = {}
        self._rest: dict[str, Any] = {}
        self._kept: tuple[str, Definition] | None = None
        for option, value in options.items():
            setattr(self, option, value)

    # --- ways in

    @staticmethod
    def from_conda_specification(name: str, file_path: str | os.PathLike[str]) -> "Environment":
        """Return the environment of a conda specification. Raises `FileNotFoundError`, `UserErrorException`."""
        made = Environment(name)
        made.python.conda_dependencies = CondaDependencies(file_path)
        made.environment_variables |= made.python.conda_dependencies._variables
        return made

    @staticmethod
    def from_pip_requirements(
        name: str, file_path: str | os.PathLike[str], pip_version: str | None = None
    ) -> "Environment":
        """Return the environment of a requirements file; files that it names (`-r`) are followed.

        Raises `FileNotFoundError`, `UserErrorException` (`requirement_option` …).
        """
        path = Path(file_path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no requirements file {path}.")
        with told_as(UserErrorException):
            text = requirements_text(path)
            parse_requirements(text)
        if pip_version is not None:
            log.warning("pip %s is not installed: packages are installed without it.", pip_version)
        made = Environment(name)
        made.python.conda_dependencies.set_pip_requirements(text.splitlines())
        return made

    @staticmethod
    def from_existing_conda_environment(name: str, conda_environment_name: str) -> "Environment":
        """Return what a conda environment of this machine has, by its own records; conda is not needed.

        Raises `UserErrorException` (`conda_environment_not_found`, `invalid_conda_environment`).
        """
        with told_as(UserErrorException):
            found = read_conda_environment(conda_environment_name)
        tell(found.notes)
        made = Environment._of(name, found.definition)
        made.environment_variables = {**EXAMPLE, **made.environment_variables}
        return made

    @staticmethod
    def from_docker_image(
        name: str,
        image: str,
        container_registry: ContainerRegistry | None = None,
        conda_specification: str | None = None,
        pip_requirements: str | None = None,
    ) -> "Environment":
        """Return an environment on an image; without packages it is the image's own Python that runs."""
        made = Environment._with_packages(name, conda_specification, pip_requirements)
        made.docker.enabled = True
        made.docker.base_image = image
        if container_registry is not None:
            made.docker.base_image_registry = container_registry
        return made

    @staticmethod
    def from_dockerfile(
        name: str,
        dockerfile: str | os.PathLike[str],
        conda_specification: str | None = None,
        pip_requirements: str | None = None,
    ) -> "Environment":
        """Return an environment on the image of a Dockerfile (its text, or its path)."""
        made = Environment._with_packages(name, conda_specification, pip_requirements)
        made.docker.enabled = True
        made.docker.base_dockerfile = os.fspath(dockerfile)
        return made

    @staticmethod
    def from_docker_build_context(name: str, docker_build_context: DockerBuildContext) -> "Environment":
        """Return an environment on the image of a build context."""
        made = Environment(name)
        made.docker.enabled = True
        made.docker.build_context = docker_build_context
        made.python.user_managed_dependencies = True
        return made

    @staticmethod
    def _with_packages(name: str, conda: str | None, pip: str | None) -> "Environment":
        if conda is not None and pip is not None:
            raise refused("two_specifications", "Give a conda specification or pip requirements, not both.")
        if conda is not None:
            return Environment.from_conda_specification(name, conda)
        if pip is not None:
            return Environment.from_pip_requirements(name, pip)
        made = Environment(name)
        made.python.user_managed_dependencies = True
        return made

    @staticmethod
    def _of(name: str, definition: Definition, version: str | None = None) -> "Environment":
        made = Environment(name)
        documents.fill(made, definition)
        made.version = version
        return made

    @staticmethod
    def _of_view(view: _views.Environment) -> "Environment":
        said = (view.model_extra or {}).get("definition") or {}
        definition = Definition.model_validate_json(json.dumps(said))
        made = Environment._of(view.name, definition, view.version)
        made._kept = view.version, documents.definition_of(made)
        return made

    # --- as text and files

    def _definition(self) -> Definition:
        """Return what is said, for Cloche."""
        return documents.definition_of(self)

    def _reference(self, workspace: "Workspace") -> str:
        """Return how a run or service names this: by the version that says the same, registered where there is none.

        Raises `UserErrorException` with the code of what is refused, before anything is submitted.
        """
        known = self._kept is not None and self._kept == (self.version, self._definition())
        return f"{self.name}:{self.version if known else self.register(workspace).version}"

    def save_to_directory(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the folder that Azure ML's SDK v1 writes. Raises `FileExistsError`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=overwrite)
        document = documents.document_of(self)
        del document["python"]["condaDependencies"]
        dockerfile = document["docker"]["baseDockerfile"]
        if dockerfile:
            del document["docker"]["baseDockerfile"]
        texts = {
            MAIN: json.dumps(document, indent=4),
            CONDA: self.python.conda_dependencies.serialize_to_string(),
            DOCKERFILE: dockerfile,
        }
        for name, text in texts.items():
            if text:
                (folder / name).write_text(text, encoding="utf-8")
            else:
                (folder / name).unlink(missing_ok=True)

    @staticmethod
    def load_from_directory(path: str | os.PathLike[str]) -> "Environment":
        """Return what such a folder says. Raises `FileNotFoundError`, `UserErrorException` (`invalid_azure`)."""
        folder = Path(path)
        if not (folder / MAIN).is_file():
            raise FileNotFoundError(f"There is no {folder / MAIN}.")
        with told_as(UserErrorException):
            texts = {name: read_text(folder / name) for name in (MAIN, CONDA, DOCKERFILE) if (folder / name).is_file()}
        try:
            document = json.loads(texts[MAIN])
            made = Environment(document["name"])
            documents.read(made, document, texts.get(CONDA), texts.get(DOCKERFILE))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise refused("invalid_azure", f"{folder / MAIN} cannot be read.", f"{error!r}.") from error
        made.version = document.get("version")
        return made

    def clone(self, new_name: str) -> "Environment":
        """Return a copy under another name, without a version."""
        if not new_name:
            raise refused("invalid_name", "A copy needs a name.")
        made = copy.deepcopy(self)
        made.name, made.version, made._kept = new_name, None, None
        return made

    def __str__(self) -> str:
        return f"Environment(Name: {self.name},\nVersion: {self.version})"

    def __repr__(self) -> str:
        return json.dumps(documents.document_of(self), indent=4)

    # --- on a server

    def register(self, workspace: "Workspace | None" = None) -> "Environment":
        """Register this and return it with its version; what equals the latest version is that version.

        Raises `UserErrorException` with the code of what is refused.
        """
        if self.version is not None and self._kept is None:
            log.warning("Versions are given by the server: version %s is not asked for.", self.version)
        said = self._definition().model_dump(mode="json", exclude_defaults=True)
        with told_as(UserErrorException):
            view = workspace_or(workspace).client.environments.register(self.name, definition=said)
        return Environment._of_view(view)

    @staticmethod
    def get(
        workspace: "Workspace", name: str, version: str | int | None = None, label: str | None = None
    ) -> "Environment":
        """Return a version: the given one, the labelled one, or the latest. Raises `AzureMLException`."""
        if version is not None and label is not None:
            raise refused("version_and_label", "Give a version or a label, not both.")
        with told_as(AzureMLException):
            return Environment._of_view(workspace.client.environments.get(name, version, label))

    @staticmethod
    def list(workspace: "Workspace | None" = None) -> "dict[str, Environment]":
        """Return the latest version of each environment, by name."""
        with told_as(AzureMLException):
            views = workspace_or(workspace).client.environments.list()
        return {view.name: Environment._of_view(view) for view in views}

    @staticmethod
    def label(workspace: "Workspace", name: str, version: str | int, labels: "list_[str]") -> None:
        """Let labels name a version."""
        with told_as(UserErrorException):
            for label in labels:
                workspace.client.environments.label(name, label, version)

    def build(
        self, workspace: "Workspace | None" = None, image_build_compute: str | None = None
    ) -> "ImageBuildDetails":
        """Register this, begin its build and return that; what is built already is there at once."""
        if image_build_compute is not None:
            raise refused("not_available", "Builds run where the server builds.", todo="Leave image_build_compute out.")
        here = workspace_or(workspace)
        registered = self.register(here)
        with told_as(UserErrorException):
            return ImageBuildDetails(here.client, here.client.builds.start(f"{self.name}:{registered.version}"))

    def build_local(self, workspace: "Workspace | None" = None, **_others: object) -> "ImageBuildDetails":
        """Build this on the server of the workspace, which for the embedded one is this machine, and wait for it."""
        return self.build(workspace).wait_for_completion(show_output=True)

    def get_image_details(self, workspace: "Workspace | None" = None) -> DockerImageDetails:
        """Return what there is of this environment's image."""
        here = workspace_or(workspace)
        with told_as(UserErrorException):
            view = here.client.environments.get(self.name, self.version)
            return image_details(here.client, view.definition_hash)

    @staticmethod
    def add_private_pip_wheel(workspace: "Workspace", file_path: str | os.PathLike[str], exist_ok: bool = False) -> str:
        """Upload a wheel and return the address to give to `add_pip_package`.

        Raises `UserErrorException` (`wheel_not_found`, `wheel_exists`, and what the server finds wrong).
        """
        from cloche.core._wheels import uploaded  # noqa: PLC0415 - seldom needed

        return uploaded(workspace, Path(file_path), exist_ok=exist_ok)


list_ = list
EnvironmentDefinition = Environment


def of_last_run() -> Environment:
    """Return the environment of the run that this process belongs to, else of the one that it submitted last."""
    name = os.environ.get("CLOCHE_ENVIRONMENT_NAME")
    if name and os.environ.get("CLOCHE_RUN_ID"):
        made = Environment(name)
        made.version = os.environ.get("CLOCHE_ENVIRONMENT_VERSION")
        return made
    run = last_run()
    if run is None:
        raise refused("no_run", "There is no run whose environment is meant.", todo="Submit one, or ask a Run for it.")
    return run.get_environment()


__all__ = [
    "DEFAULT_CPU_IMAGE",
    "DEFAULT_GPU_IMAGE",
    "CondaDependencies",
    "DatabricksSection",
    "DockerBuildContext",
    "DockerImageDetails",
    "DockerImagePlatform",
    "DockerSection",
    "Environment",
    "EnvironmentReference",
    "ImageBuildDetails",
    "PythonSection",
    "RCranPackage",
    "RGitHubPackage",
    "RSection",
    "SparkPackage",
    "SparkSection",
]
