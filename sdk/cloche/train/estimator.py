"""`Estimator`: a script, its arguments and its packages in one; `experiment.submit(estimator)` runs it."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cloche.core._notes import kept_out, refused, unavailable
from cloche.core.compute import ComputeTarget
from cloche.core.conda_dependencies import CondaDependencies
from cloche.core.container_registry import ContainerRegistry
from cloche.core.dataset import DatasetConsumptionConfig
from cloche.core.datastore import DataReference
from cloche.core.environment import Environment
from cloche.core.runconfig import AmlComputeConfiguration, RunConfiguration
from cloche.core.script_run_config import ScriptRunConfig
from cloche.exceptions import TrainingException

_OVERRIDES: Final = frozenset(("script_params", "inputs", "source_directory_data_store"))


class Estimator:
    """What is submitted: `entry_script` of `source_directory`, on `compute_target` or a machine of `vm_size`.

    `script_params` are arguments with their values (empty values are left out). Packages are said by
    `conda_packages` and `pip_packages`, by files, or by a whole `environment_definition`. `use_docker`: None means
    as the target runs things, which are processes here; True asks for a container, which the server refuses until
    it has them. Raises `TrainingException` for what does not go together.
    """

    def __init__(
        self,
        source_directory: str | os.PathLike[str],
        *,
        compute_target: str | ComputeTarget | None = None,
        vm_size: str | None = None,
        vm_priority: str | None = None,
        entry_script: str | None = None,
        script_params: Mapping[str, object] | None = None,
        node_count: int = 1,
        process_count_per_node: int = 1,
        distributed_backend: object = None,
        distributed_training: object = None,
        use_gpu: bool = False,
        use_docker: bool | None = None,
        custom_docker_image: str | None = None,
        custom_docker_base_image: str | None = None,
        image_registry_details: ContainerRegistry | None = None,
        user_managed: bool = False,
        conda_packages: Iterable[str] | None = None,
        pip_packages: Iterable[str] | None = None,
        conda_dependencies_file: str | None = None,
        conda_dependencies_file_path: str | None = None,
        pip_requirements_file: str | None = None,
        pip_requirements_file_path: str | None = None,
        environment_variables: Mapping[str, str] | None = None,
        environment_definition: Environment | None = None,
        inputs: Iterable[object] | None = None,
        source_directory_data_store: object = None,
        shm_size: str | None = None,
        resume_from: object = None,
        max_run_duration_seconds: float | None = None,
    ) -> None:
        self.source_directory = os.fspath(source_directory)
        if compute_target is None and vm_size is None:
            raise _wrong("target_missing", "Neither compute_target nor vm_size is given.")
        _check_counts(node_count, process_count_per_node, distributed_backend or distributed_training)
        kept_out(TrainingException, source_directory_data_store=source_directory_data_store, resume_from=resume_from)
        said = {
            "conda_dependencies_file": conda_dependencies_file or conda_dependencies_file_path,
            "pip_requirements_file": pip_requirements_file or pip_requirements_file_path,
            "conda_packages": list(conda_packages or ()),
            "pip_packages": list(pip_packages or ()),
            "use_gpu": use_gpu,
            "use_docker": use_docker,
            "image": custom_docker_image or custom_docker_base_image,
            "registry": image_registry_details,
            "shm_size": shm_size,
            "variables": environment_variables,
            "user_managed": user_managed,
        }
        self._script = entry_script
        self._params = dict(script_params or {})
        self._inputs = list(inputs or ())
        self.run_config = RunConfiguration()
        self.run_config.target = compute_target if compute_target is not None else "amlcompute"
        self.run_config.amlcompute = AmlComputeConfiguration(vm_size, vm_priority)
        self.run_config.max_run_duration_seconds = max_run_duration_seconds
        self.run_config.environment = _environment(self.source_directory, environment_definition, said)
        self._refresh()

    @property
    def entry_script(self) -> str | None:
        """The script."""
        return self._script

    @property
    def conda_dependencies(self) -> CondaDependencies:
        """The packages."""
        environment = self.run_config.environment
        return environment.python.conda_dependencies if environment is not None else CondaDependencies()

    def _refresh(self) -> None:
        self.run_config.script = self._script
        self.run_config.arguments = flat(self._params)
        self.run_config.data_references = {}
        for one in (*self._inputs, *self._params.values()):
            found = one.reference() if isinstance(one, DatasetConsumptionConfig) else one
            if isinstance(found, DataReference):
                self.run_config.data_references[found.data_reference_name] = found

    def _for_submit(self, **overrides: Any) -> ScriptRunConfig:
        """Return what is submitted; of the options only arguments and inputs may be replaced."""
        unknown = sorted(set(overrides) - _OVERRIDES)
        if unknown:
            what = f"{', '.join(unknown)} cannot be replaced when an Estimator is submitted."
            raise _wrong("unknown_option", what)
        kept_out(TrainingException, source_directory_data_store=overrides.get("source_directory_data_store"))
        if "script_params" in overrides:
            self._params = dict(overrides["script_params"] or {})
        if "inputs" in overrides:
            self._inputs = list(overrides["inputs"] or ())
        self._refresh()
        return ScriptRunConfig(self.source_directory, self._script, run_config=self.run_config)


def flat(params: Mapping[str, object]) -> list[object]:
    """Return arguments with their values in one list; values that are empty are left out, numbers stay numbers."""
    found: list[object] = []
    for name, value in params.items():
        found += [name] if value in ("", None) else [name, value]
    return found


def _check_counts(nodes: int, processes: int, distributed: object) -> None:
    if nodes < 1 or processes < 1:
        raise _wrong("invalid_count", "There is at least one node, and one process on it.")
    if nodes > 1 or processes > 1 or distributed:
        why = "A run is one process on one node."
        raise unavailable("Distributed training", why, "Leave counts and backends out.", TrainingException)


def _wrong(code: str, what: str) -> Exception:
    return refused(code, what, kind=TrainingException)


def _environment(folder: str, given: Environment | None, said: Mapping[str, Any]) -> Environment | None:
    """Return the environment that an Estimator's options make."""
    asked = {name: value for name, value in said.items() if value}
    if given is not None:
        if asked:
            what = f"environment_definition says everything; {', '.join(sorted(asked))} cannot be said beside it."
            raise _wrong("two_environments", what)
        return given
    packages = [name for name in ("conda_packages", "pip_packages") if said[name]]
    if said["conda_dependencies_file"] and (packages or said["pip_requirements_file"]):
        raise _wrong("two_specifications", "A conda file says everything; packages cannot be said beside it.")
    if said["user_managed"] and (packages or said["conda_dependencies_file"] or said["pip_requirements_file"]):
        raise _wrong("user_managed_packages", "Nothing is installed where packages are managed by the user.")
    made = Environment("estimator")
    made.python.user_managed_dependencies = bool(said["user_managed"])
    made.python.conda_dependencies = _dependencies(folder, said)
    made.environment_variables = dict(said["variables"] or {})
    docker = made.docker
    docker.enabled, docker.gpu_support = bool(said["use_docker"]), bool(said["use_gpu"]) and not said["image"]
    docker.base_image = said["image"]
    docker.base_image_registry = said["registry"] or ContainerRegistry()
    docker.shm_size = said["shm_size"] or docker.shm_size
    return made


def _dependencies(folder: str, said: Mapping[str, Any]) -> CondaDependencies:
    if said["conda_dependencies_file"]:
        return CondaDependencies(_below(folder, said["conda_dependencies_file"]))
    made = CondaDependencies()
    if said["pip_requirements_file"]:
        file = _below(folder, said["pip_requirements_file"])
        made = Environment.from_pip_requirements("estimator", file).python.conda_dependencies
    for package in said["pip_packages"]:
        made.add_pip_package(package)
    for package in said["conda_packages"]:
        made.add_conda_package(package)
    return made


def _below(folder: str, file: str) -> Path:
    path = Path(folder) / file
    if not path.resolve().is_relative_to(Path(folder).resolve()) or not path.is_file():
        raise _wrong("file_outside", f"There is no file {file} in {folder}.")
    return path


__all__ = ["Estimator"]
