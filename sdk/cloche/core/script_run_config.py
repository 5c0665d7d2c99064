"""`ScriptRunConfig`: a script, its folder, and how it is run."""

import copy
import os
from typing import Any

from cloche.core._notes import refused
from cloche.core.compute import ComputeTarget
from cloche.core.environment import Environment
from cloche.core.runconfig import DockerConfiguration, RunConfiguration
from cloche.exceptions import RunConfigurationException


class ScriptRunConfig:
    """What is submitted: `script` of the folder `source_directory`, with `arguments`, as `run_config` says.

    `compute_target` and `environment` are the same as `run_config.target` and `run_config.environment`. Unknown
    attributes raise `AttributeError`.
    """

    __slots__ = ("arguments", "run_config", "script", "source_directory")

    def __init__(
        self,
        source_directory: str | os.PathLike[str] | None = None,
        script: str | None = None,
        arguments: list[object] | None = None,
        run_config: RunConfiguration | None = None,
        compute_target: str | ComputeTarget | None = None,
        environment: Environment | None = None,
        distributed_job_config: object = None,
        resume_from: object = None,
        max_run_duration_seconds: float | None = None,
        command: str | list[str] | None = None,
        docker_runtime_config: DockerConfiguration | None = None,
    ) -> None:
        self.source_directory = os.fspath(source_directory or ".")
        self.run_config = copy.deepcopy(run_config) if run_config is not None else RunConfiguration()
        self.script = script if script is not None else self.run_config.script
        self.arguments: list[object] = list(arguments if arguments is not None else self.run_config.arguments)
        if compute_target is not None:
            self.compute_target = compute_target
        if environment is not None:
            self.environment = environment
        if max_run_duration_seconds is not None:
            self.run_config.max_run_duration_seconds = max_run_duration_seconds
        if docker_runtime_config is not None:
            self.run_config.docker = docker_runtime_config
        if command is not None:
            self.run_config.command = command
        for name, value in (("distributed_job_config", distributed_job_config), ("resume_from", resume_from)):
            if value is not None:
                raise refused(
                    "not_available",
                    f"{name} is not available in Cloche.",
                    "A run is one process on one node, and begins anew.",
                    kind=RunConfigurationException,
                )

    @property
    def compute_target(self) -> Any:
        """Where it runs."""
        return self.run_config.target

    @compute_target.setter
    def compute_target(self, value: str | ComputeTarget | None) -> None:
        self.run_config.target = value

    @property
    def environment(self) -> Environment | None:
        """The environment; None for the server's default one."""
        return self.run_config.environment

    @environment.setter
    def environment(self, value: Environment | None) -> None:
        self.run_config.environment = value


__all__ = ["ScriptRunConfig"]
