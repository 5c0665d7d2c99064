"""A node as its services' processes open it: its folder, its files, and the executor that programs run in.

    async with open_node(folder, "runner", interpreters, socket=settings.cluster.executor) as home:
        ports = local_node(home.root, home.executor, home.files, NvmlDevices(), home.sharing)

With a socket, programs run in the executor's container, under a user of its own. The node's folder
then lies on a volume that executor, runner and deployer see at one path. Its group is the one that
they have in common; runner and deployer have one user, for they link each other's files.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cloche_shared.adapters.interpreters import Interpreters
from cloche_shared.adapters.local_executor import LocalExecutor
from cloche_shared.adapters.local_node_files import LocalNodeFiles
from cloche_shared.adapters.sharing import PRIVATE, Sharing
from cloche_shared.adapters.socket_executor import SocketExecutor
from cloche_shared.errors import Invalid

SHORT_ENOUGH = 75
"""Bytes of the path of scoring sockets' folder: a socket's name takes 25, and all of it at most 100."""


@dataclass(frozen=True, slots=True)
class NodeHome:
    """What a service needs to drive a node. `check` says what is wrong with the executor, None when it answers."""

    root: Path
    executor: LocalExecutor | SocketExecutor
    files: LocalNodeFiles
    sharing: Sharing
    sockets: Path
    check: Callable[[], Awaitable[str | None]]


@asynccontextmanager
async def open_node(
    root: Path, owner: str, interpreters: Interpreters, *, socket: str = "", gid: int | None = None
) -> AsyncIterator[NodeHome]:
    """Open a node's folder for `owner` (`runner`, `deployer`), and let go of it at the end.

    `socket` is the executor's, empty: programs run below this process. `gid` is the group in common;
    None: that of the folder in which the socket lies. Raises `Invalid`, `OSError`.
    """
    sharing = _sharing(Path(socket).parent, gid) if socket else PRIVATE
    root, sockets = _laid_out(root, sharing)
    async with AsyncExitStack() as stack:
        files = LocalNodeFiles(root, interpreters, sharing=sharing)
        stack.push_async_callback(files.close)
        if socket:
            executor = SocketExecutor(Path(socket), owner)
            stack.push_async_callback(executor.close)
            yield NodeHome(root, executor, files, sharing, sockets, executor.check)
        else:
            local = LocalExecutor(root / "processes" / owner)
            stack.push_async_callback(local.close)
            yield NodeHome(root, local, files, sharing, sockets, _well)


async def _well() -> str | None:
    return None


def _sharing(folder: Path, gid: int | None) -> Sharing:
    if gid is not None:
        return Sharing(gid)
    try:
        return Sharing(folder.stat().st_gid)
    except OSError as error:
        raise Invalid(
            "invalid_setting",
            "The folder of the executor's socket is not there.",
            why=f"{folder}: {error.strerror}.",
            todo="Mount the volume that the executor's container makes its socket in.",
        ) from error


def _laid_out(root: Path, sharing: Sharing) -> tuple[Path, Path]:
    """Make the node's folders, each as open as it must be; return the whole path, and that of scoring sockets."""
    root = root.absolute()
    sockets = root / "sockets"
    if len(str(sockets).encode()) > SHORT_ENOUGH:
        raise Invalid(
            "invalid_setting",
            f"The path of the node's folder is too long: {root}.",
            why="Scoring workers listen on sockets in it, whose paths have 100 bytes at most.",
            todo="Set cluster.data to a shorter path.",
        )
    for folder in (root, root / "prefixes", root / "work", root / "attempts"):
        sharing.readable(folder)
    sharing.writable(sockets)
    return root, sockets
