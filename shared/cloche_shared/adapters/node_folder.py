"""A node is a folder: an id, and an exclusive lock for each service that drives it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloche_shared.adapters.folder_lock import FolderLock
from cloche_shared.adapters.sharing import PRIVATE, Sharing
from cloche_shared.errors import Conflict, Invalid

ID_FILE = "node-id"
SOCKET_FOLDER = 70
"""Bytes of the path of the folder for sockets at most, so that a socket's has no more than 100."""


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """A node's folder, held by one service.

    `root` holds store, prefixes and working folders; `processes` what a local executor keeps; `sockets` the
    sockets of scoring workers.
    """

    name: str
    root: Path
    processes: Path
    sockets: Path


@contextmanager
def held_node(data: Path, name: str, service: str, sharing: Sharing = PRIVATE) -> Iterator[NodeFolder]:
    """Hold the node of a data folder for a service until the block is left.

    Raises `Conflict` (`already_running`: another process of this service drives it; `node_id_differs`) and
    `Invalid` (`path_too_long`).
    """
    root, sockets = data / "node", data / "sockets"
    if len(str(sockets)) > SOCKET_FOLDER:
        raise Invalid(
            "path_too_long",
            "The data folder's path is too long for sockets.",
            why=f"{sockets} has more than {SOCKET_FOLDER} bytes.",
            todo="Set cluster.data to a shorter path.",
        )
    for folder in (data, root):
        sharing.readable(folder)
    sharing.writable(sockets)
    with FolderLock(root / f"{service}.lock"):
        _check_id(root / ID_FILE, name)
        yield NodeFolder(name, root, data / f"processes-{service}", sockets)


def _check_id(file: Path, name: str) -> None:
    """Bind the folder to its node at first; later it must be the same."""
    if not file.exists():
        file.write_text(f"{name}\n")
    known = file.read_text().strip()
    if known != name:
        raise Conflict(
            "node_id_differs",
            f"This folder belongs to the node {known!r}, not to {name!r}.",
            why="What lives on a node is claimed under its id; under another id it would be lost.",
            todo="Set cluster.node to the folder's id, or give the node a folder of its own.",
        )
