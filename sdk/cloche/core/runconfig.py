"""`RunConfiguration`: everything about a run but its code. Unknown attributes raise `AttributeError`.

What has no effect here is refused when the run is submitted, by name (`cloche.core._submitting`).
"""

import copy
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from cloche.core import _documents as documents
from cloche.core._notes import refused
from cloche.core.compute import LOCAL, ComputeTarget
from cloche.core.datastore import DataReference
from cloche.core.environment import (
    DEFAULT_CPU_IMAGE,
    DEFAULT_GPU_IMAGE,
    CondaDependencies,
    Environment,
    EnvironmentDefinition,
)
from cloche.exceptions import UserErrorException, told_as
from cloche.formats.yaml_text import read_yaml, write_yaml

FOLDER: Final = ".azureml"
DEFAULT_NAME: Final = "default"
LONGEST: Final = 30 * 86_400
"""Seconds that a run may take at most."""


@dataclass(slots=True)
class HistoryConfiguration:
    """What of a run is kept besides its log, its metrics and its code, which always are.

    `output_collection`: whether `outputs/`, `logs/` and `directories_to_watch` (folders at the top of the working
    folder) are. `snapshot_project` cannot be switched off: code of runs is what makes them reproducible.
    """

    output_collection: bool = True
    snapshot_project: bool = True
    directories_to_watch: list[str] = field(default_factory=lambda: ["logs"])


@dataclass(slots=True)
class DockerConfiguration:
    """Whether a run is a container, and how large its /dev/shm is."""

    use_docker: bool = False
    shared_volumes: bool = True
    arguments: list[str] = field(default_factory=list)
    shm_size: str | None = None


@dataclass(slots=True)
class MpiConfiguration:
    """Processes of MPI: more than one process or node is not available."""

    process_count_per_node: int = 1
    node_count: int = 1


@dataclass(slots=True)
class TensorflowConfiguration:
    """Workers of TensorFlow: more than one is not available."""

    worker_count: int = 1
    parameter_server_count: int = 0


@dataclass(slots=True)
class PyTorchConfiguration:
    """Processes of PyTorch: more than one process or node is not available."""

    communication_backend: str = "Nccl"
    process_count: int | None = None
    node_count: int = 1


@dataclass(slots=True)
class SparkConfiguration:
    """Settings of Spark, which is not available."""

    configuration: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class AmlComputeConfiguration:
    """The size of a machine where no target is named."""

    vm_size: str | None = None
    vm_priority: str | None = None
    retain_cluster: bool = False
    name: str | None = None
    cluster_max_node_count: int | None = None


@dataclass(slots=True)
class DataReferenceConfiguration:
    """A path in a datastore by the datastore's name."""

    datastore_name: str
    path_on_datastore: str | None = None
    mode: str = "mount"
    path_on_compute: str | None = None
    overwrite: bool = False


class RunConfiguration:
    """How a run is made: its target, environment, variables, data, and how long it may take.

    `environment` is None for the server's default one.
    """

    __slots__ = (
        "_target",
        "amlcompute",
        "arguments",
        "command",
        "communicator",
        "credential_passthrough",
        "data",
        "data_references",
        "docker",
        "environment",
        "environment_variables",
        "framework",
        "history",
        "max_run_duration_seconds",
        "mpi",
        "name",
        "node_count",
        "output_data",
        "priority",
        "pytorch",
        "script",
        "source_directory_data_store",
        "spark",
        "tensorflow",
    )

    def __init__(
        self,
        script: str | None = None,
        arguments: list[object] | None = None,
        framework: str | None = None,
        communicator: str | None = None,
        conda_dependencies: CondaDependencies | None = None,
    ) -> None:
        self.name: str | None = None
        self.script = script
        self.arguments: list[object] = list(arguments or [])
        self.command: str | list[str] = ""
        self.framework = framework or "Python"
        self.communicator = communicator or "None"
        self._target: object = LOCAL
        self.environment: Environment | None = None
        self.environment_variables: dict[str, str] = {}
        self.max_run_duration_seconds: float | None = None
        self.node_count = 1
        self.priority: int | None = None
        self.history = HistoryConfiguration()
        self.docker = DockerConfiguration()
        self.spark = SparkConfiguration()
        self.mpi = MpiConfiguration()
        self.tensorflow = TensorflowConfiguration()
        self.pytorch = PyTorchConfiguration()
        self.amlcompute = AmlComputeConfiguration()
        self.data_references: dict[str, DataReference | DataReferenceConfiguration] = {}
        self.data: dict[str, object] = {}
        self.output_data: dict[str, object] = {}
        self.source_directory_data_store: str | None = None
        self.credential_passthrough = False
        if conda_dependencies is not None:
            self.environment = Environment("default-environment")
            self.environment.python.conda_dependencies = conda_dependencies

    @property
    def target(self) -> Any:
        """Where it runs: `local`, the name of a target, or a target."""
        return self._target.name if isinstance(self._target, ComputeTarget) else self._target

    @target.setter
    def target(self, value: "str | ComputeTarget | None") -> None:
        self._target = LOCAL if value is None else value

    # --- as a file

    def _as_dict(self) -> dict[str, Any]:
        plain = {
            documents.camel(name): documents.plain(getattr(self, name))
            for name in self.__slots__
            if name not in {"_target", "environment", "data_references", "data", "output_data", "name"}
        }
        references = {name: documents.plain(_configured(one)) for name, one in self.data_references.items()}
        environment = None if self.environment is None else documents.document_of(self.environment)
        return {**plain, "target": self.target, "dataReferences": references, "environment": environment}

    def save(self, path: str | os.PathLike[str] | None = None, name: str | None = None) -> str:
        """Write `.azureml/<name>.runconfig` below a folder that is there, and return its path."""
        folder = Path(path or ".")
        if not folder.is_dir():
            raise refused("folder_not_found", f"There is no folder {folder}.")
        file = folder / FOLDER / f"{name or self.name or DEFAULT_NAME}.runconfig"
        file.parent.mkdir(exist_ok=True)
        said = json.loads(json.dumps(self._as_dict(), default=str))
        file.write_text(write_yaml(said), encoding="utf-8")
        return str(file)

    @staticmethod
    def load(path: str | os.PathLike[str] | None = None, name: str | None = None) -> "RunConfiguration":
        """Read what `save` wrote. Raises `FileNotFoundError`, `UserErrorException` (`invalid_run_config`)."""
        whole = Path(path or ".")
        places = [whole] if whole.is_file() else list(_places(whole, name or DEFAULT_NAME))
        file = next((one for one in places if one.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"There is no run configuration {name or DEFAULT_NAME} at {whole}.")
        with told_as(UserErrorException):
            said = read_yaml(file.read_text(encoding="utf-8")).data
        if not isinstance(said, dict):
            raise refused("invalid_run_config", f"{file} holds no run configuration.")
        made = RunConfiguration()
        made.name = file.stem
        _fill(made, said)
        return made

    @staticmethod
    def delete(path: str | os.PathLike[str], name: str) -> None:
        """Remove what `save` wrote."""
        for place in _places(Path(path), name):
            place.unlink(missing_ok=True)

    def __deepcopy__(self, memo: dict[int, object]) -> "RunConfiguration":
        """Copy all but targets and datastores, which are names of things elsewhere."""
        made = RunConfiguration.__new__(RunConfiguration)
        for name in self.__slots__:
            value = getattr(self, name)
            shallow = name in {"data_references", "data", "arguments"}
            kept = value if name == "_target" else copy.copy(value) if shallow else copy.deepcopy(value, memo)
            setattr(made, name, kept)
        return made


def _places(folder: Path, name: str) -> list[Path]:
    return [folder / below / f"{name}{end}" for below in (FOLDER, "aml_config", ".") for end in (".runconfig", "")]


def _configured(one: DataReference | DataReferenceConfiguration) -> DataReferenceConfiguration:
    if isinstance(one, DataReferenceConfiguration):
        return one
    return DataReferenceConfiguration(
        one.datastore.name, one.path_on_datastore, one.mode, one.path_on_compute, one.overwrite
    )


def _fill(made: RunConfiguration, said: dict[str, Any]) -> None:
    lowered = {key.lower(): value for key, value in said.items()}
    for name in made.__slots__:
        value = lowered.get(name.replace("_", ""))
        present = getattr(made, name)
        if value is None or name in {"_target", "data_references", "environment"}:
            continue
        setattr(made, name, _section(present, value) if hasattr(present, "__dataclass_fields__") else value)
    made.target = lowered.get("target")
    for name, one in (lowered.get("datareferences") or {}).items():
        made.data_references[name] = _section(DataReferenceConfiguration(""), one)
    environment = lowered.get("environment")
    if environment:
        made.environment = Environment(environment.get("name") or "default-environment")
        documents.read(made.environment, environment, None, None)


def _section(section: Any, said: dict[str, Any]) -> Any:
    lowered = {key.lower(): value for key, value in said.items()}
    for one in fields(section):
        if lowered.get(one.name.replace("_", "")) is not None:
            setattr(section, one.name, lowered[one.name.replace("_", "")])
    return section


__all__ = [
    "DEFAULT_CPU_IMAGE",
    "DEFAULT_GPU_IMAGE",
    "AmlComputeConfiguration",
    "CondaDependencies",
    "DataReferenceConfiguration",
    "DockerConfiguration",
    "EnvironmentDefinition",
    "HistoryConfiguration",
    "MpiConfiguration",
    "PyTorchConfiguration",
    "RunConfiguration",
    "SparkConfiguration",
    "TensorflowConfiguration",
]
