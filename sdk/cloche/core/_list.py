"""`list` for scripts that write `list("workspace_name")` and mean a workspace's environments."""

import builtins
from typing import Any

from cloche.core._process import last_workspace
from cloche.core.environment import Environment
from cloche.core.workspace import Workspace


def list(of: Any = ()) -> "builtins.list[Any]":  # noqa: A001 - the name is the point; anything that can be iterated
    """Return a workspace's environments, latest version each; of anything else what the builtin returns.

    `of` is a workspace, or the name of the one that was opened last.
    """
    workspace = of if isinstance(of, Workspace) else last_workspace()
    if workspace is not None and of in (workspace, workspace.name):
        return builtins.list(Environment.list(workspace).values())
    return builtins.list(of)


__all__ = ["list"]
