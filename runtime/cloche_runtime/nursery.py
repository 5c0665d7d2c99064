"""The nursery: a small single-threaded process that forks supervisors for one service.

    python -S -E nursery.py         descriptor 0: a Unix socket (SOCK_SEQPACKET) to the service

Each message is the path of a group's folder, with one end of a socket pair attached that becomes the
supervisor's first owner. Forking from here costs a millisecond where starting an interpreter costs
fifteen. The nursery ends when its service closes the socket or dies; supervisors live on.
"""

import array
import gc
import os
import signal
import socket
import sys
from typing import Optional, Tuple

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from cloche_runtime import supervisor
from cloche_runtime.spawn import become_subreaper

_PATH = 4096


def _receive(control: socket.socket) -> Tuple[str, Optional[socket.socket]]:
    """Return the next folder and the owner's end; an empty path when the service is gone."""
    descriptors = array.array("i")
    data, extra, _, _ = control.recvmsg(_PATH, socket.CMSG_LEN(descriptors.itemsize))
    for level, kind, content in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: descriptors.itemsize])
    owner = socket.socket(fileno=descriptors[0]) if descriptors else None
    if owner is not None:
        owner.set_inheritable(False)
    return os.fsdecode(data), owner


def _raise(folder: str, owner: Optional[socket.socket]) -> None:
    """Live as the supervisor of `folder`; never returns."""
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        supervisor.main(folder, owner)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


def main() -> None:
    """Fork a supervisor for each message until the service goes."""
    control = socket.socket(fileno=os.dup(0))
    control.set_inheritable(False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are reaped by the kernel,
    become_subreaper()  # and so are those whose supervisor was killed, whatever runs as pid 1
    gc.disable()
    gc.freeze()
    control.send(b"ready")
    while True:
        folder, owner = _receive(control)
        if not folder:
            return
        if os.fork() == 0:
            control.close()
            _raise(folder, owner)
        if owner is not None:
            owner.close()


if __name__ == "__main__":
    main()
