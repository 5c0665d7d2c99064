"""`Run`: a run as who submitted it sees it; inside one, `Run.get_context()` is the run itself."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cloche.client import Run as Submitted
from cloche.core._notes import refused, unavailable
from cloche.core.environment import Environment, of_last_run
from cloche.exceptions import (
    ActivityFailedException,
    AzureMLException,
    ExperimentExecutionException,
    ModelPathNotFoundException,
    RunEnvironmentException,
    UserErrorException,
    told_as,
)
from cloche_runtime.run import Run as Inside

if TYPE_CHECKING:
    from cloche.core.experiment import Experiment
    from cloche.core.model import Model
    from cloche.core.workspace import Workspace

LOG: Final = "azureml-logs/70_driver_log.txt"
"""The name under which the log stands among a run's files."""
_LINE: Final = "=" * 17


class _OnClassToo:
    """A method that means, on the class itself, the run that this process knows."""

    def __get__(self, run: "Run | None", owner: type) -> Callable[[], Environment]:
        return of_last_run if run is None else run._environment


class Run:
    """A run of an experiment. `Run(experiment, run_id)` and `Run.get(ws, run_id)` open one."""

    get_environment = _OnClassToo()
    """Returns the environment that the run took, of its version. On the class: of the run that this process belongs
    to, else of the one that it submitted last. Raises `UserErrorException` (`no_run`, `no_environment`)."""

    def __init__(self, experiment: "Experiment", run_id: str) -> None:
        self.experiment = experiment
        self._id = run_id
        self._client = experiment.workspace.client

    @staticmethod
    def get_context(allow_offline: bool = True, **_others: object) -> Inside:
        """Return the run that this process belongs to; elsewhere one that prints what it is told.

        Raises `RunEnvironmentException` (`no_run`) where there is none and `allow_offline` is false.
        """
        try:
            return Inside.get_context(allow_offline=allow_offline)
        except RuntimeError as error:
            raise refused("no_run", f"{error}", kind=RunEnvironmentException) from error

    @staticmethod
    def get(workspace: "Workspace", run_id: str) -> "ScriptRun":
        """Return a run by its id. Raises `AzureMLException` (`run_not_found`)."""
        from cloche.core.experiment import Experiment  # noqa: PLC0415 - experiments need this module

        with told_as(AzureMLException):
            view = workspace.client.runs.get(run_id)
        experiment = (view.model_extra or {}).get("experiment") or "default"
        return ScriptRun(Experiment(workspace, str(experiment)), view.id)

    @staticmethod
    def list(experiment: "Experiment", **wanted: Any) -> "list_[Run]":
        """Return the runs of an experiment, newest first (see `Experiment.get_runs`)."""
        return experiment.get_runs(**wanted)

    # --- what is known of it

    @property
    def id(self) -> str:
        """The id."""
        return self._id

    @property
    def type(self) -> str:
        """Always `azureml.scriptrun`."""
        return "azureml.scriptrun"

    @property
    def status(self) -> str:
        """How it is now."""
        return self.get_status()

    @property
    def display_name(self) -> str:
        """The name that it was given, or an empty text."""
        return str(self._said().get("display_name") or "")

    @property
    def tags(self) -> dict[str, str]:
        """What `get_tags` returns."""
        return self.get_tags()

    @property
    def properties(self) -> dict[str, str]:
        """What `get_properties` returns."""
        return self.get_properties()

    def _view(self) -> Submitted:
        with told_as(AzureMLException):
            return self._client.runs.get(self._id)

    def _said(self) -> dict[str, Any]:
        return self._view().model_dump()

    def get_status(self) -> str:
        """Return `NotStarted`, `Preparing`, `Queued`, `Starting`, `Running`, `Finalizing`, `Completed`, `Failed`."""
        return self._view().status

    def get_details(self) -> dict[str, object]:
        """Return what is known of it, under the names that people know."""
        said = self._said()
        environment = said.get("environment") or {}
        problem = said.get("problem")
        details: dict[str, object] = {
            "runId": self._id,
            "target": said.get("node") or "local",
            "status": said["status"],
            "startTimeUtc": said.get("started_at"),
            "endTimeUtc": said.get("ended_at"),
            "properties": {"ContentSnapshotId": said.get("snapshot"), **(said.get("properties") or {})},
            "inputDatasets": [],
            "outputDatasets": [],
            "runDefinition": {
                "script": said.get("script"),
                "arguments": said.get("arguments"),
                "environment": {"name": environment.get("name"), "version": environment.get("version")},
            },
            "logFiles": {LOG: f"{self._client.endpoint.url}/api/v1/runs/{self._id}/log"},
            "submittedBy": said.get("created_by"),
        }
        if problem:
            details["error"] = {"error": {"code": problem["code"], "message": problem["message"]}}
        return details

    def get_details_with_logs(self) -> dict[str, object]:
        """Return the details with the log's text."""
        return {**self.get_details(), "logFiles": {LOG: self._log()}}

    def get_tags(self) -> dict[str, str]:
        """Return the tags: those that it was submitted with, and those that its script set."""
        return dict(self._said().get("tags") or {})

    def get_properties(self) -> dict[str, str]:
        """Return the properties that its script added."""
        return dict(self._said().get("properties") or {})

    def get_metrics(self, name: str | None = None, recursive: bool = False, **_others: object) -> dict[str, Any]:
        """Return what its script logged, by name; with `recursive` by the run's id above that."""
        with told_as(AzureMLException):
            found = dict(self._client.runs.metrics(self._id)["metrics"])
        chosen = found if name is None else {key: one for key, one in found.items() if key == name}
        return {self._id: chosen} if recursive else chosen

    def _environment(self) -> Environment:
        view = self._view()
        if view.environment is None:
            raise refused(
                "no_environment", f"The run {self._id} has no environment yet.", todo="Wait until it has one."
            )
        return Environment.get(self.experiment.workspace, view.environment.name, view.environment.version)

    def get_portal_url(self) -> str:
        """Return its address at the server."""
        return f"{self._client.endpoint.url}/api/v1/runs/{self._id}"

    def get_snapshot_id(self) -> str:
        """Return the digest of the code that it was submitted with."""
        return str(self._said().get("snapshot") or "")

    def get_children(self, **_wanted: object) -> "list_[Run]":
        """Return its children: runs have none."""
        return []

    # --- its end

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = False, raise_on_error: bool = True
    ) -> dict[str, object]:
        """Wait for the end and return the details; with `show_output` the log is shown as it grows.

        Raises `ActivityFailedException` with the code and the reason of a failed run.
        """
        del wait_post_processing  # a run has ended only when what it left is kept
        try:
            if show_output:
                self._show()
            with told_as(ExperimentExecutionException):
                ended = self._client.runs.wait(self._id)
        except KeyboardInterrupt:
            what = f"The run {self._id} goes on; only the waiting was interrupted."
            raise refused(
                "interrupted", what, todo="Use cancel() to end it.", kind=ExperimentExecutionException
            ) from None
        if show_output:
            self._summary(ended)
        if raise_on_error and ended.status == "Failed":
            problem = ended.problem
            code, what = (problem.code, problem.message) if problem is not None else ("run_failed", "The run failed.")
            raise ActivityFailedException(code, what, todo=problem.todo if problem is not None else "")
        return self.get_details()

    def _show(self) -> None:
        sys.stdout.write(f"RunId: {self._id}\nWeb View: {self.get_portal_url()}\n\nStreaming {LOG}\n{_LINE}\n\n")
        with told_as(ExperimentExecutionException):
            for piece in self._client.runs.log(self._id):
                sys.stdout.write(piece.decode(errors="replace"))

    def _summary(self, ended: Submitted) -> None:
        sys.stdout.write(f"\nExecution Summary\n{_LINE}\nRunId: {self._id}\nWeb View: {self.get_portal_url()}\n")
        if ended.problem is not None:
            sys.stdout.write(f"Error: {ended.problem.code}: {ended.problem.message}\n")

    def cancel(self) -> None:
        """Ask for its end."""
        with told_as(ExperimentExecutionException):
            self._client.runs.cancel(self._id)

    # --- its files

    def get_file_names(self) -> "list_[str]":
        """Return the paths of what it left, and of its log."""
        with told_as(AzureMLException):
            return [LOG, *(str(one["path"]) for one in self._client.runs.outputs(self._id))]

    def download_file(
        self, name: str, output_file_path: str | os.PathLike[str] | None = None, _validate_checksum: bool = False
    ) -> None:
        """Write one of its files to a path (a folder takes it under its own name), else to here."""
        target = Path(output_file_path) if output_file_path is not None else Path(name.rpartition("/")[2])
        target = target / name.rpartition("/")[2] if target.is_dir() else target
        if name == LOG:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self._log(), encoding="utf-8")
            return
        with told_as(UserErrorException):
            self._client.runs.download(self._id, name, target)

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: str | os.PathLike[str] | None = None,
        output_paths: "list_[str] | None" = None,
        append_prefix: bool = True,
    ) -> None:
        """Write the files whose paths begin with `prefix` below a folder."""
        names = [name for name in self.get_file_names() if name.startswith(prefix or "")]
        if output_paths is not None and len(output_paths) != len(names):
            raise refused("invalid_paths", f"There are {len(names)} files and {len(output_paths)} paths for them.")
        for number, name in enumerate(names):
            kept = name if append_prefix or not prefix else name[len(prefix) :].lstrip("/") or name.rpartition("/")[2]
            chosen = output_paths[number] if output_paths is not None else kept
            self.download_file(name, Path(output_directory or ".") / chosen)

    def get_all_logs(self, destination: str | os.PathLike[str] | None = None) -> "list_[str]":
        """Write its log below a folder and return where it lies."""
        target = Path(destination or ".") / LOG
        self.download_file(LOG, target)
        return [str(target)]

    def _log(self) -> str:
        with told_as(AzureMLException):
            return b"".join(self._client.runs.log(self._id, follow=False)).decode(errors="replace")

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        description: str | None = None,
    ) -> "Model":
        """Make a model of a file or folder that the run left (by default of the model's name).

        Raises `ModelPathNotFoundException` with the names of what it left.
        """
        from cloche.core.model import Model, framework_tags  # noqa: PLC0415 - models need environments

        path = (model_path or model_name).rstrip("/")
        names = self.get_file_names()
        if not any(name == path or name.startswith(f"{path}/") for name in names):
            left = ", ".join(names[1:50]) or "nothing"
            what = f"The run {self._id} has no {path}."
            raise refused("path_not_found", what, f"It left: {left}.", kind=ModelPathNotFoundException)
        said = framework_tags(tags, properties, model_framework, model_framework_version)
        with told_as(UserErrorException):
            view = self._client.models.register(
                model_name, path=path, from_run=self._id, tags=said, description=description or ""
            )
        return Model._of(self.experiment.workspace, view)

    # --- what only its script may say

    def log(self, *_: object, **_options: object) -> NoReturn:
        """Raise `UserErrorException` (`not_available`): a run's script says what is logged."""
        raise unavailable("Logging for a run from outside", "Its script does.", "Use Run.get_context() in the script.")

    log_list = log_row = log_table = log_image = upload_file = upload_files = upload_folder = log
    tag = set_tags = add_properties = complete = fail = child_run = log

    def __repr__(self) -> str:
        return f"Run(Experiment: {self.experiment.name},\nId: {self._id},\nType: {self.type})"


class ScriptRun(Run):
    """A run of a script."""


def get_run(experiment: "Experiment", run_id: str, rehydrate: bool = True, **_others: object) -> ScriptRun:
    """Return a run of an experiment by its id. Raises `AzureMLException` (`run_not_found`)."""
    del rehydrate
    return Run.get(experiment.workspace, run_id)


list_ = list

__all__ = ["Run", "ScriptRun", "get_run"]
