"""`Model`: registered files; `InferenceConfig`: how they are served; `Model.deploy` brings a service up."""

import ast
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from cloche import _views
from cloche.core import dataset
from cloche.core._notes import kept_out, refused, unavailable
from cloche.core._process import workspace_or
from cloche.core.compute import AksCompute, no_kubernetes
from cloche.core.container_registry import ContainerRegistry
from cloche.core.environment import Environment
from cloche.core.webservice import (
    AciWebservice,
    AksServiceDeploymentConfiguration,
    ServiceDeploymentConfiguration,
    Webservice,
)
from cloche.exceptions import ModelNotFoundException, WebserviceException, told_as

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace

Dataset = dataset.Dataset
FOLDER: Final = "azureml-models"
_PROPERTY: Final = "property."
_FRAMEWORK: Final = "model_framework"
_FRAMEWORK_VERSION: Final = "model_framework_version"


def framework_tags(
    tags: Mapping[str, str] | None,
    properties: Mapping[str, str] | None,
    framework: str | None,
    framework_version: str | None,
) -> dict[str, str]:
    """Return tags that say all of it: Cloche's models have no further members."""
    if framework_version is not None and framework is None:
        what = "A version of a framework is given without the framework."
        raise refused("framework_missing", what, todo="Give model_framework too.", kind=WebserviceException)
    said = dict(tags or {}) | {f"{_PROPERTY}{name}": str(value) for name, value in (properties or {}).items()}
    said |= {_FRAMEWORK: framework} if framework is not None else {}
    return said | ({_FRAMEWORK_VERSION: framework_version} if framework_version is not None else {})


class Model:
    """One version of a model. `Model(ws, name)` opens the latest. Raises `WebserviceException` (`model_not_found`)."""

    class Framework:
        """Names of frameworks."""

        CUSTOM = "Custom"
        TENSORFLOW = "TensorFlow"
        SCIKITLEARN = "ScikitLearn"
        ONNX = "Onnx"
        TFKERAS = "TfKeras"
        PYTORCH = "PyTorch"
        MULTI = "Multi"

    def __init__(
        self,
        workspace: "Workspace",
        name: str | None = None,
        id: str | None = None,
        version: int | str | None = None,
    ) -> None:
        known, _, number = (id or name or "").partition(":")
        with told_as(WebserviceException):
            self._take(workspace, workspace.client.models.get(known, version or number or None))

    def _take(self, workspace: "Workspace", view: _views.Model) -> None:
        said = view.model_dump()
        self.workspace = workspace
        self.name = view.name
        self.version = int(view.version)
        self.description = str(said.get("description") or "")
        self.created_time = said.get("created_at")
        self.run_id = view.run_id or None
        tags = dict(view.tags)
        self.properties = {
            key.removeprefix(_PROPERTY): tags.pop(key) for key in sorted(tags) if key.startswith(_PROPERTY)
        }
        self.model_framework = tags.pop(_FRAMEWORK, None)
        self.model_framework_version = tags.pop(_FRAMEWORK_VERSION, None)
        self.tags = tags

    @classmethod
    def _of(cls, workspace: "Workspace", view: _views.Model) -> "Model":
        made = cls.__new__(cls)
        made._take(workspace, view)
        return made

    @property
    def id(self) -> str:
        """Name and version: `name:1`."""
        return f"{self.name}:{self.version}"

    @property
    def url(self) -> str:
        """Its address at the server."""
        return f"{self.workspace.client.endpoint.url}/api/v1/models/{self.name}?version={self.version}"

    # --- registering and finding

    @staticmethod
    def register(
        workspace: "Workspace",
        model_path: str | os.PathLike[str],
        model_name: str,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        description: str | None = None,
        datasets: object = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        child_paths: object = None,
    ) -> "Model":
        """Register a file or folder of this machine as the next version. Raises `FileNotFoundError`."""
        kept_out(WebserviceException, datasets=datasets, child_paths=child_paths)
        if not Path(model_path).exists():
            raise FileNotFoundError(f"There is no file or folder {model_path}.")
        sys.stdout.write(f"Registering model {model_name}\n")
        said = framework_tags(tags, properties, model_framework, model_framework_version)
        with told_as(WebserviceException):
            view = workspace.client.models.register(
                model_name, path=Path(model_path), tags=said, description=description or ""
            )
        return Model._of(workspace, view)

    @staticmethod
    def list(
        workspace: "Workspace",
        name: str | None = None,
        tags: "list_[Any] | None" = None,
        properties: "list_[Any] | None" = None,
        run_id: str | None = None,
        latest: bool = False,
    ) -> "list_[Model]":
        """Return models: all versions, or with `latest` the last of each; `tags` are keys or `[key, value]`."""
        client = workspace.client.models
        with told_as(WebserviceException):
            views = client.list() if name is None else client.versions(name)
            if not latest and name is None:
                views = [one for view in views for one in client.versions(view.name)]
        found = [Model._of(workspace, view) for view in (views[:1] if latest and name is not None else views)]
        return [
            one
            for one in found
            if _fits(one.tags, tags) and _fits(one.properties, properties) and run_id in (None, one.run_id)
        ]

    @staticmethod
    def get_model_path(model_name: str, version: int | None = None, _workspace: "Workspace | None" = None) -> str:
        """Return where a model's files lie: in a scoring service where they are, elsewhere after fetching them.

        Raises `ModelNotFoundException` (`model_not_found`).
        """
        if version is not None and not isinstance(version, int):
            raise refused("invalid_version", f"A version is a number, not {version!r}.", kind=WebserviceException)
        from cloche_runtime.model import Model as Inside  # noqa: PLC0415 - only where it is asked for

        if _workspace is None:
            try:
                return Inside.get_model_path(model_name, version)
            except FileNotFoundError as error:
                if os.environ.get("CLOCHE_RUN_ID") or os.environ.get("AZUREML_MODEL_DIR"):
                    raise refused("model_not_found", f"{error}", kind=ModelNotFoundException) from error
        with told_as(ModelNotFoundException):
            try:
                model = Model(workspace_or(_workspace), model_name, version=version)
            except WebserviceException as error:
                raise refused(error.code, error.what, error.why, error.todo, ModelNotFoundException) from error
            return model.download(Path(FOLDER) / model.name / str(model.version), exist_ok=True)

    def download(self, target_dir: str | os.PathLike[str] = ".", exist_ok: bool = False) -> str:
        """Write its files below a folder and return the file or folder that they are.

        Raises `WebserviceException` (`file_exists`).
        """
        target = Path(target_dir)
        with told_as(WebserviceException):
            there = [target / one.partition("/")[0] for one in self._paths() if (target / one).exists()]
            if there and not exist_ok:
                todo = "Choose another folder, or exist_ok=True."
                raise refused("file_exists", f"{there[0]} is there already.", todo=todo, kind=WebserviceException)
            written = self.workspace.client.models.download(self.name, self.version, target)
        tops = {target / path.relative_to(target).parts[0] for path in written}
        return str(tops.pop() if len(tops) == 1 else target)

    def _paths(self) -> "list_[str]":
        view = self.workspace.client.models.get(self.name, self.version).model_dump()
        return [str(one["path"]) for one in view.get("files") or []]

    def delete(self) -> None:
        """Refuse new references to the model, of any version, from now on."""
        with told_as(WebserviceException):
            self.workspace.client.models.delete(self.name)

    def serialize(self) -> dict[str, object]:
        """Return it as an object of JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "tags": self.tags,
            "properties": self.properties,
            "description": self.description,
            "createdTime": self.created_time,
            "runId": self.run_id,
            "framework": self.model_framework,
            "frameworkVersion": self.model_framework_version,
        }

    # --- serving

    @staticmethod
    def deploy(
        workspace: "Workspace",
        name: str,
        models: "Iterable[Model | str]",
        inference_config: "InferenceConfig | None" = None,
        deployment_config: ServiceDeploymentConfiguration | None = None,
        deployment_target: object = None,
        overwrite: bool = False,
        show_output: bool = False,
    ) -> Webservice:
        """Bring a scoring service up and return it at once; `wait_for_deployment` waits until it serves.

        Raises `WebserviceException` (`service_exists` …).
        """
        if isinstance(deployment_target, AksCompute) or isinstance(
            deployment_config, AksServiceDeploymentConfiguration
        ):
            raise no_kubernetes(WebserviceException)
        if inference_config is None:
            raise unavailable("Serving without a script", "run() says what is scored.", kind=WebserviceException)
        kept_out(WebserviceException, deployment_target=deployment_target)
        config = deployment_config or AciWebservice.deploy_configuration()
        references = [one.id if isinstance(one, Model) else str(one) for one in models]
        with told_as(WebserviceException), inference_config._staged() as (folder, script):
            workspace.client.services.deploy(
                name,
                script,
                source=folder,
                model=references,
                environment=inference_config._reference(workspace, name),
                description=config.description or inference_config.description,
                update=overwrite,
                **config._options(),
            )
        service = Webservice(workspace, name)
        service.compute_type = config.compute_type
        if show_output:
            service.wait_for_deployment(show_output=True)
        return service

    @staticmethod
    def package(*_: object, **_options: object) -> object:
        """Raise `WebserviceException` (`not_available`): images are not made here yet."""
        raise unavailable("Packaging a model", "This server does not make images yet.", kind=WebserviceException)

    @staticmethod
    def profile(*_: object, **_options: object) -> object:
        """Raise `WebserviceException` (`not_available`)."""
        raise unavailable("Profiling a model", "Nothing here measures models.", kind=WebserviceException)

    def __repr__(self) -> str:
        return f"Model(workspace={self.workspace!r}, name={self.name}, id={self.id}, version={self.version})"


class InferenceConfig:
    """A scoring script with `init()` and `run()`, and its environment.

    `entry_script` lies in `source_directory`, which is sent whole; without one the script is sent alone.
    Raises `WebserviceException` (`script_not_found`, `invalid_script` …) at once.
    """

    def __init__(
        self,
        entry_script: str | os.PathLike[str],
        runtime: str | None = None,
        conda_file: str | None = None,
        extra_docker_file_steps: str | None = None,
        source_directory: str | os.PathLike[str] | None = None,
        enable_gpu: bool | None = None,
        description: str | None = None,
        base_image: str | None = None,
        base_image_registry: ContainerRegistry | None = None,
        cuda_version: str | None = None,
        environment: Environment | None = None,
    ) -> None:
        if (runtime or "python") not in {"python", "python-slim"}:
            what = f"Scoring scripts cannot be run by {runtime}."
            raise refused("spark_not_available", what, "There is no Spark here.", kind=WebserviceException)
        if environment is not None and (conda_file or runtime):
            what = "Give an environment, or a runtime and a conda file, not both."
            raise refused("two_environments", what, kind=WebserviceException)
        kept_out(
            WebserviceException,
            extra_docker_file_steps=extra_docker_file_steps,
            enable_gpu=enable_gpu,
            base_image=base_image,
            base_image_registry=base_image_registry,
            cuda_version=cuda_version,
        )
        self.entry_script = os.fspath(entry_script)
        self.source_directory = None if source_directory is None else os.fspath(source_directory)
        self.description = description
        self.environment = environment
        self.conda_file = conda_file
        _check_script(Path(self.source_directory or ".") / self.entry_script)

    def _reference(self, workspace: "Workspace", service: str) -> str | None:
        if self.environment is not None:
            return self.environment._reference(workspace)
        if self.conda_file is None:
            return None
        return Environment.from_conda_specification(f"{service}-env", self.conda_file)._reference(workspace)

    @contextmanager
    def _staged(self) -> Iterator[tuple[Path, Path]]:
        """Yield the folder to send and the script in it."""
        if self.source_directory is not None:
            yield Path(self.source_directory), Path(self.source_directory) / self.entry_script
            return
        with TemporaryDirectory(prefix="cloche-score-") as scratch:
            alone = Path(scratch) / Path(self.entry_script).name
            shutil.copyfile(self.entry_script, alone)
            yield Path(scratch), alone


def _check_script(path: Path) -> None:
    if not path.is_file():
        raise refused("script_not_found", f"There is no scoring script {path}.", kind=WebserviceException)
    if path.suffix != ".py" or not path.stem.isidentifier():
        what = f"{path.name} cannot be a scoring script."
        raise refused("invalid_script", what, "It is imported: its name is a Python name.", kind=WebserviceException)
    try:
        ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise refused("invalid_script", f"{path} is no Python.", f"{error}.", kind=WebserviceException) from error


def _fits(said: Mapping[str, str], wanted: "list_[Any] | None") -> bool:
    for one in wanted or []:
        key, value = (one, None) if isinstance(one, str) else (one[0], one[1])
        if key not in said or value not in (None, said[key]):
            return False
    return True


class ModelPackage:
    """An image with a model. None can be made yet."""


list_ = list
__all__ = ["Dataset", "InferenceConfig", "Model", "ModelPackage"]
