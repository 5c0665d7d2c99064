"""Unix sockets by paths of any length, and whom the kernel says is at the other end."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid; see unix(7)
_BACKLOG = 64


@contextmanager
def _short(path: Path) -> Iterator[tuple[str, int]]:
    """Give a path that fits into an address (107 bytes), however deep the folder lies."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}", folder
    finally:
        os.close(folder)


def bound(path: Path, gid: int | None) -> socket.socket:
    """Return a listening socket at `path`, in place of what a former owner left there.

    It appears there when it can be used: by our user, and by the group `gid` if there is one.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    fresh = f".{path.name}.{os.getpid()}"
    try:
        with _short(path) as (short, folder):
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=folder)
            sock.bind(f"{short}/{fresh}")
            if gid is not None:
                os.chown(fresh, -1, gid, dir_fd=folder)
            os.chmod(f"{short}/{fresh}", 0o600 if gid is None else 0o660)  # noqa: PTH101 - by descriptor
            sock.listen(_BACKLOG)
            os.rename(fresh, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        sock.close()
        raise
    return sock


def connected(path: Path) -> socket.socket:
    """Return a connection to the socket at `path`. Local sockets connect at once or not at all. Raises `OSError`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _short(path) as (short, _):
            sock.connect(f"{short}/{path.name}")
    except BaseException:
        sock.close()
        raise
    return sock


def peer_uid(sock: socket.socket) -> int:
    """Return the user that opened the other end."""
    _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid)
