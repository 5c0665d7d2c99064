"""The nursery: a small single-threaded process that forks supervisors for one service.

    python -S -E nursery.py         descriptor 0: a Unix socket (SOCK_SEQPACKET) to the service

Each message is the path of a group's folder, with one end of a socket pair attached that becomes the
supervisor's first owner. Forking from here costs a millisecond where starting an interpreter costs
fifteen. Behind the path may stand a zero byte and the path of an interpreter: the group's program is a script
in it, which a warm one may fork (see `cloche_runtime.seedbeds`). The nursery ends when its service closes
the socket or dies; supervisors live on.
"""

import _signal  # type: ignore[import-not-found]
import gc
import os
import select
import signal
import socket
import sys
from typing import Optional

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from cloche_runtime import procfs, supervisor
from cloche_runtime.seedbeds import Seedbeds, receive
from cloche_runtime.spawn import become_subreaper

_PATHS = 8192


def _raise(folder: str, owner: Optional[socket.socket]) -> None:
    """Live as the supervisor of `folder`; never returns."""
    status = 70
    try:
        os.setsid()
        _signal.signal(signal.SIGCHLD, _signal.SIG_DFL)
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
    procfs.boot_id()  # what all forks need is read once
    gc.disable()
    gc.freeze()
    control.send(b"ready")
    beds = Seedbeds()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        if not poll.poll(beds.tidy()):
            continue
        asked, owner = receive(control, _PATHS)
        if not asked:
            return
        folder, _, python = asked.partition(b"\0")
        if not (python and owner and beds.raise_one(folder, os.fsdecode(python), owner)) and os.fork() == 0:
            control.close()
            beds.close()
            _raise(os.fsdecode(folder), owner)
        if owner is not None:
            owner.close()


if __name__ == "__main__":
    main()
