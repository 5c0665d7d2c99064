"""What this process used last: where the SDK that people know needs no workspace, this is the one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloche.core.run import Run
    from cloche.core.workspace import Workspace


class _Last:
    workspace: "Workspace | None" = None
    run: "Run | None" = None


def used(workspace: "Workspace") -> None:
    """Remember the workspace that was opened last."""
    _Last.workspace = workspace


def submitted(run: "Run") -> None:
    """Remember the run that was submitted last."""
    _Last.run = run


def workspace_or(given: "Workspace | None") -> "Workspace":
    """Return the given workspace, else the one that was opened last, else the default one."""
    from cloche.core.workspace import Workspace  # noqa: PLC0415 - workspaces need this module

    return given or _Last.workspace or Workspace()


def last_run() -> "Run | None":
    """Return the run that this process submitted last."""
    return _Last.run


def last_workspace() -> "Workspace | None":
    """Return the workspace that this process opened last."""
    return _Last.workspace
