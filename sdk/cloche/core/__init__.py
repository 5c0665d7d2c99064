"""The SDK that people know from Azure ML (v1), on Cloche: change `azureml` to `cloche` in the imports.

    from cloche.core import Environment, Experiment, ScriptRunConfig, Workspace

Thin and built on `cloche.Client`, which is the modern face of the same things. Inside a run,
`from cloche.core import Run` needs nothing installed. What is loaded is loaded when a name is first used.
"""

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cloche import __version__ as VERSION  # noqa: N812 - the name that people know

if TYPE_CHECKING:
    from cloche.core._list import list  # noqa: A004 - the name is the point
    from cloche.core.compute import ComputeTarget
    from cloche.core.container_registry import ContainerRegistry
    from cloche.core.dataset import Dataset
    from cloche.core.datastore import Datastore
    from cloche.core.environment import Environment
    from cloche.core.experiment import Experiment
    from cloche.core.image import Image
    from cloche.core.keyvault import Keyvault
    from cloche.core.model import Model
    from cloche.core.run import Run, ScriptRun, get_run
    from cloche.core.runconfig import RunConfiguration
    from cloche.core.script_run_config import ScriptRunConfig
    from cloche.core.webservice import Webservice
    from cloche.core.workspace import Workspace

_HOMES = {
    "ComputeTarget": "compute",
    "ContainerRegistry": "container_registry",
    "Dataset": "dataset",
    "Datastore": "datastore",
    "Environment": "environment",
    "Experiment": "experiment",
    "Image": "image",
    "Keyvault": "keyvault",
    "Model": "model",
    "Run": "run",
    "RunConfiguration": "runconfig",
    "ScriptRun": "run",
    "ScriptRunConfig": "script_run_config",
    "Webservice": "webservice",
    "Workspace": "workspace",
    "get_run": "run",
    "list": "_list",
}

__all__ = [
    "VERSION",
    "ComputeTarget",
    "ContainerRegistry",
    "Dataset",
    "Datastore",
    "Environment",
    "Experiment",
    "Image",
    "Keyvault",
    "Model",
    "Run",
    "RunConfiguration",
    "ScriptRun",
    "ScriptRunConfig",
    "Webservice",
    "Workspace",
    "get_run",
    "list",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'cloche.core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cloche.core.{home}"), name)


def __dir__() -> Iterable[str]:
    return sorted({*globals(), *__all__})
