"""The node that a process drives: its folder, what runs there, and its environments."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.node_folder import NodeFolder, held_node
from cloche_shared.adapters.socket_executor.client import SocketExecutor
from cloche_shared.cluster.settings import ProcessSettings
from cloche_shared.cluster.wiring import Opened
from cloche_shared.errors import Conflict
from cloche_shared.ports.executor import Executor

P = TypeVar("P", bound=ProcessSettings)


@dataclass(frozen=True, slots=True)
class NodeHeld:
    """A node that is held: nobody else drives it for this service."""

    folder: NodeFolder
    executor: Executor
    files: LocalNodeFiles


async def hold_node(opened: Opened[P], owner: str, stack: AsyncExitStack) -> NodeHeld | None:
    """Hold the node of `cluster.node` for a service until the stack is left; None where none is set.

    Raises as `held_node` does.
    """
    cluster = opened.settings.cluster
    if not cluster.node:
        return None
    try:
        folder = stack.enter_context(held_node(opened.data, cluster.node, owner, opened.sharing))
    except Conflict as error:
        if error.code == "already_running":
            raise _driven(cluster.node) from error
        raise
    where = Path(cluster.executor)
    executor = SocketExecutor(where, owner) if cluster.executor else LocalExecutor(folder.processes)
    files = LocalNodeFiles(folder.root, Interpreters(), sharing=opened.sharing, package_code=cluster.package_code)
    for part in (executor, files):
        stack.push_async_callback(part.close)
    return NodeHeld(folder, executor, files)


def _driven(node: str) -> Conflict:
    return Conflict(
        "already_running",
        f"Another replica drives the node {node!r}.",
        why="One process of each service does, and this one has the same folder.",
        todo="Give each replica a folder and a node of its own (docs/how-to/cluster.md, Scale).",
    )
