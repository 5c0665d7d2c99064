"""`Experiment`: runs under one name."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from cloche.core import _submitting as submitting
from cloche.core._notes import refused, unavailable
from cloche.core._process import submitted, workspace_or
from cloche.core.run import Run, ScriptRun
from cloche.core.script_run_config import ScriptRunConfig
from cloche.exceptions import ExperimentExecutionException, UserErrorException, told_as

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


class Experiment:
    """Runs under one name, of letters, digits, dashes, underscores and points. It is there when it has a run."""

    def __init__(self, workspace: "Workspace | None" = None, name: str = "default") -> None:
        if not _NAME.fullmatch(name):
            todo = "Begin with a letter or digit; letters, digits, dashes, underscores and points follow."
            raise refused("invalid_name", f"{name!r} cannot be the name of an experiment.", todo=todo)
        self.workspace = workspace_or(workspace)
        self.name = name

    @property
    def id(self) -> str:
        """The name."""
        return self.name

    def submit(self, config: object, tags: Mapping[str, str] | None = None, **kwargs: Any) -> ScriptRun:
        """Submit a `ScriptRunConfig` or an `Estimator` and return its run. Its definition is copied.

        Raises `RunConfigurationException`, `SnapshotException`, `ExperimentExecutionException`.
        """
        chosen = config._for_submit(**kwargs) if hasattr(config, "_for_submit") else config
        if not isinstance(chosen, ScriptRunConfig):
            raise unavailable(f"Submitting {type(config).__name__}", "Runs are scripts.", "Give a ScriptRunConfig.")
        if kwargs and chosen is config:
            raise refused("unknown_option", f"submit() does not know {', '.join(sorted(kwargs))}.")
        found = submitting.submit(self.workspace, self.name, chosen, tags or {})
        run = ScriptRun(self, found.id)
        submitted(run)
        return run

    def start_logging(self, *_: object, **_options: object) -> Run:
        """Raise `ExperimentExecutionException` (`not_available`): runs are scripts that are submitted."""
        raise unavailable(
            "A run of this very process", "Runs are scripts.", "Submit the script.", ExperimentExecutionException
        )

    def get_runs(
        self,
        type: str | None = None,
        tags: str | Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        include_children: bool = False,
    ) -> list[Run]:
        """Return its runs, newest first, those that have `tags` (a key, or keys with values) and `properties`."""
        del type, include_children
        wanted = {tags: None} if isinstance(tags, str) else dict(tags or {})
        with told_as(UserErrorException):
            views = [view.model_dump() for view in self.workspace.client.runs.list()]
        mine = [view for view in views if view.get("experiment") == self.name]
        fitting = [
            one for one in mine if _has(one.get("tags"), wanted) and _has(one.get("properties"), properties or {})
        ]
        return [ScriptRun(self, str(one["id"])) for one in fitting]

    @staticmethod
    def list(workspace: "Workspace | None" = None) -> "list_[Experiment]":
        """Return the experiments that have runs, by name."""
        here = workspace_or(workspace)
        with told_as(UserErrorException):
            names = {str(view.model_dump().get("experiment")) for view in here.client.runs.list()}
        return [Experiment(here, name) for name in sorted(names)]

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name},\nWorkspace: {self.workspace.name})"


def _has(said: object, wanted: Mapping[str, str | None]) -> bool:
    table = said if isinstance(said, Mapping) else {}
    return all(key in table and value in (None, table[key]) for key, value in wanted.items())


list_ = list

__all__ = ["Experiment"]
