"""A `ScriptRunConfig` becomes a run of `cloche.Client`; what nothing here would follow is refused."""

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from cloche.client import Run as Submitted
from cloche.core._notes import refused, unavailable
from cloche.core.compute import configuration_of, vm
from cloche.core.dataset import DatasetConsumptionConfig, FileDataset
from cloche.core.datastore import VARIABLE, DataReference, Datastore
from cloche.core.runconfig import DataReferenceConfiguration, HistoryConfiguration, RunConfiguration
from cloche.core.script_run_config import ScriptRunConfig
from cloche.exceptions import ExperimentExecutionException, RunConfigurationException, SnapshotException, told_as
from cloche_shared.contracts.runs import RUNS_OWN

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace

_FRAMEWORKS: Final = frozenset(("python", "tensorflow", "pytorch", "scikitlearn"))
_OF_FILES: Final = frozenset(
    (
        "snapshot_too_large",
        "source_not_found",
        "script_not_found",
        "script_outside_source",
        "unsafe_path",
        "place_taken",
    )
)
"""Codes that say what is wrong with the files that are sent."""


def submit(workspace: "Workspace", experiment: str, config: ScriptRunConfig, tags: Mapping[str, str]) -> Submitted:
    """Submit a run and return it. Raises `RunConfigurationException`, `SnapshotException` and others."""
    run_config = copy.deepcopy(config.run_config)
    _check(config, run_config)
    script = Path(config.source_directory) / (config.script or "")
    data = _references(workspace, run_config, config.arguments)
    with ExitStack() as stack:
        folders = {one.place: stack.enter_context(one.local()) for one in data.values()}
        wanted: dict[str, Any] = {
            "source": config.source_directory,
            "arguments": [_argument(one, data) for one in config.arguments],
            "environment": None if run_config.environment is None else run_config.environment._reference(workspace),
            "variables": _variables(run_config, data),
            "deadline": run_config.max_run_duration_seconds,
            "experiment": experiment,
            "tags": dict(tags),
            "data": folders,
            "collect": _collected(run_config.history),
            **_resources(workspace, run_config),
        }
        with told_as(ExperimentExecutionException):
            try:
                return workspace.client.runs.submit(script, **wanted)
            except Exception as error:
                if getattr(error, "code", "") in _OF_FILES:
                    with told_as(SnapshotException):
                        raise
                raise


def _check(config: ScriptRunConfig, run_config: RunConfiguration) -> None:
    """Refuse what would be accepted and ignored."""
    if run_config.framework.lower() == "pyspark":
        raise refused(
            "spark_not_available",
            "PySpark scripts cannot be run.",
            "There is no Spark here that could take the script.",
            kind=RunConfigurationException,
        )
    if run_config.framework.lower() not in _FRAMEWORKS:
        raise _not(f"The framework {run_config.framework}", "Scripts are run by Python.")
    counts = [run_config.node_count, run_config.mpi.node_count, run_config.mpi.process_count_per_node]
    counts += [run_config.tensorflow.worker_count, run_config.pytorch.node_count, run_config.pytorch.process_count or 1]
    if max(counts) > 1 or run_config.communicator.lower() not in {"none", ""}:
        raise _not("A run of several processes or nodes", "A run is one process on one node.")
    if run_config.docker.use_docker or run_config.docker.arguments or run_config.docker.shm_size:
        raise _not("A container (run_config.docker)", "This server runs environments as folders on its nodes yet.")
    if run_config.command:
        raise _not("run_config.command", "Runs are Python scripts.", "Give script= and arguments=.")
    if not config.script:
        raise refused("script_missing", "There is no script to run.", kind=RunConfigurationException)
    for name in ("output_data", "source_directory_data_store", "credential_passthrough"):
        if getattr(run_config, name):
            raise _not(f"run_config.{name}", "Nothing here would follow it.", "Leave it out.")
    if not run_config.history.snapshot_project:
        why = "The code of every run is kept: it is what makes a run reproducible."
        raise _not("run_config.history.snapshot_project=False", why, "Leave it as it is.")


def _collected(history: HistoryConfiguration) -> tuple[str, ...]:
    """Return the folders that are kept of a run: `outputs`, `logs` and those that are watched; or none at all."""
    if not history.output_collection:
        return ()
    watched = (str(PurePosixPath(one)) for one in history.directories_to_watch)
    return tuple(dict.fromkeys([*RUNS_OWN, *watched]))


def _not(what: str, why: str, todo: str = "") -> Exception:
    return unavailable(what, why, todo, RunConfigurationException)


def _references(workspace: "Workspace", config: RunConfiguration, arguments: list[object]) -> dict[str, DataReference]:
    """Return all data that the run is to have, by name."""
    said = [*config.data_references.values(), *config.data.values(), *arguments]
    found = [_reference(one) for one in said]
    listed = {one.data_reference_name: one for one in found if one is not None}
    for name, said_so in config.data_references.items():
        if isinstance(said_so, DataReferenceConfiguration):
            store = Datastore(workspace, said_so.datastore_name)
            listed[name] = DataReference(store, name, said_so.path_on_datastore, said_so.mode, said_so.path_on_compute)
    for one in listed.values():
        if one.mode not in {"mount", "download"}:
            raise _not(f"The mode {one.mode!r} of data", "What a run leaves in `outputs/` is kept with the run.")
    return listed


def _reference(value: object) -> DataReference | None:
    if isinstance(value, FileDataset):
        value = value.as_mount()
    if isinstance(value, DatasetConsumptionConfig):
        return value.reference()
    return value if isinstance(value, DataReference) else None


def _argument(value: object, data: Mapping[str, DataReference]) -> str:
    """Return an argument as the script gets it: names of data become paths below its working folder."""
    reference = _reference(value)
    text = str(reference if reference is not None else value)
    for name in sorted(data, key=len, reverse=True):
        text = text.replace(f"${VARIABLE}{name}", data[name].place)
    return text


def _variables(config: RunConfiguration, data: Mapping[str, DataReference]) -> dict[str, str]:
    """Return the variables of a run: those of the configuration, and where its data lies."""
    places = {f"{VARIABLE}{name}": one.place for name, one in data.items()}
    inputs = {name: data[name].place for name in config.data if name in data}
    return {**inputs, **config.environment_variables, **places}


def _resources(workspace: "Workspace", config: RunConfiguration) -> dict[str, Any]:
    size, target = config.amlcompute.vm_size, config._target
    if size and target in {"amlcompute", "local", "", None}:
        found = vm(size, config.amlcompute.vm_priority).resources()
    else:
        found = configuration_of(workspace, target).resources()
    return {**found, "priority": config.priority if config.priority is not None else found["priority"]}
