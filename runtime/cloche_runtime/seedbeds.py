"""Warm interpreters, seen from the nursery: started for environments in use, ended when nobody comes.

Each is a process that runs `seedbed.py` in an environment's own interpreter. What a short program needs
most time for, the start of its interpreter, is done there once, and forked from then on.
"""

import array
import os
import signal
import socket
import time
from contextlib import suppress
from typing import Dict, Mapping, Optional, Sequence, Tuple

from cloche_runtime import procfs
from cloche_runtime.spawn import die_with_parent, reset_signals

MOST = 4
"""Warm interpreters at a time, each of about 8 MB."""
IDLE_S = 60.0
"""Seconds without a run after which one is ended, and within which a second run starts one."""

_HERE = os.path.dirname(os.path.abspath(__file__))
_SCRIPT = os.path.join(_HERE, "seedbed.py")
_BOOTSTRAP = os.path.join(_HERE, "bootstrap.py")
_ROOM = "-" * 1024  # of the command line: the programs' own are shown there
_ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": "/"}
_WORD = 16
_ON_START = ("PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_", "LANGUAGE", "LOCPATH", "TZ", "CLOCHE_STARTED_FD")
"""How variables begin that an interpreter, or the C library, looks at when it starts."""


def interpreter_of(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Return the interpreter that a warm one may stand for; empty where the program needs a start of its own."""
    is_script = len(argv) > 3 and argv[1] == _BOOTSTRAP and argv[2] == "--" and argv[0].startswith("/")  # noqa: PLR2004 - a script
    is_plain = env.get("LANG") == _ENVIRONMENT["LANG"] and not any(name.startswith(_ON_START) for name in env)
    return argv[0] if is_script and is_plain else ""


def send(to: socket.socket, folder: bytes, owner: socket.socket) -> None:
    """Ask a seedbed or a nursery for a supervisor; `owner` becomes its first owner."""
    descriptors = array.array("i", [owner.fileno()])
    to.sendmsg([folder], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])


def receive(control: socket.socket, most: int) -> Tuple[bytes, Optional[socket.socket]]:
    """Return what is asked for and the owner's end; nothing when the asker is gone."""
    descriptors = array.array("i")
    data, extra, _, _ = control.recvmsg(most, socket.CMSG_LEN(descriptors.itemsize))
    for level, kind, content in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: descriptors.itemsize])
    owner = socket.socket(fileno=descriptors[0]) if descriptors else None
    if owner is not None:
        owner.set_inheritable(False)
    return data, owner


class Seedbed:
    """One interpreter, which is started when it is asked for a second time.

    `sock` is None before that, and when it is of no use: it runs code of the environment's own on its start,
    or cannot be started. Then nothing is tried until it was not asked for for a while.
    """

    __slots__ = ("born", "identity", "is_ready", "is_tried", "last", "pid", "sock")

    def __init__(self, identity: Tuple[int, int], now: float) -> None:
        self.identity = identity
        self.last = now
        self.sock: Optional[socket.socket] = None
        self.is_tried = False
        self.is_ready = False
        self.pid = 0
        self.born = 0

    def start(self, python: str) -> None:
        """Start the interpreter; what it says is heard when it is asked for again."""
        self.is_tried, self.is_ready = True, False
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)  # noqa: FBT003 - the socket's own signature
        self.pid = os.fork()
        if self.pid == 0:
            _become(python, theirs)
        self.born = procfs.start_time(self.pid)
        theirs.close()

    def raise_one(self, folder: bytes, owner: socket.socket) -> bool:
        """Have it fork a supervisor; false when it is not up yet, or not to be had."""
        if self.sock is None:
            return False
        try:
            if not self.is_ready:
                self.is_ready = self.sock.recv(_WORD) == b"ready"
            if self.is_ready:
                send(self.sock, folder, owner)
                return True
        except BlockingIOError:
            return False
        except OSError:
            self.is_tried = not self.is_ready  # what worked before is started again
        self.close()
        return False

    def close(self) -> None:
        """Close our end: in the nursery that ends the interpreter, in a process forked from it only its copy goes."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def end(self) -> None:
        """Close our end, and kill an interpreter that does not end by that because a program stopped it."""
        self.close()
        if self.born and procfs.start_time(self.pid) == self.born:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Seedbeds:
    """The warm interpreters of a nursery, by path."""

    def __init__(self) -> None:
        self._beds: Dict[str, Seedbed] = {}

    def raise_one(self, folder: bytes, python: str, owner: socket.socket) -> bool:
        """Have a warm interpreter fork the supervisor of `folder`; false when none is ready for it."""
        try:
            environment = os.stat(os.path.dirname(os.path.dirname(python)))
        except OSError:
            return False
        now = time.monotonic()
        identity = environment.st_ino, environment.st_mtime_ns
        bed = self._beds.get(python)
        if bed is None or bed.identity != identity:  # it is new, or was made anew
            self._plant(python, Seedbed(identity, now))
            return False
        bed.last = now
        if not bed.is_tried:
            bed.start(python)
        return bed.raise_one(folder, owner)

    def _plant(self, python: str, bed: Seedbed) -> None:
        former = self._beds.pop(python, None)
        if former is not None:
            former.close()
        while len(self._beds) >= MOST:
            oldest = min(self._beds, key=lambda name: self._beds[name].last)
            self._beds.pop(oldest).close()
        self._beds[python] = bed

    def tidy(self) -> Optional[float]:
        """End those that nobody came to; return the milliseconds until the next look, None for never."""
        now = time.monotonic()
        for python, bed in list(self._beds.items()):
            if now - bed.last >= IDLE_S:
                bed.end()
                del self._beds[python]
        if not self._beds:
            return None
        return (min(bed.last for bed in self._beds.values()) + IDLE_S - now) * 1000 + 1

    def close(self) -> None:
        """Close our ends of all of them."""
        for bed in self._beds.values():
            bed.close()


def _become(python: str, control: socket.socket) -> None:
    """Turn this forked process into the interpreter; never returns.

    Its streams are of the kinds that programs will have, for Python remembers that: the null device and pipes.
    """
    try:
        os.setsid()
        die_with_parent()
        reset_signals()
        _, writing = os.pipe()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.set_inheritable(control.fileno(), True)  # noqa: FBT003 - the function's own signature
        os.execve(python, [python, _SCRIPT, str(control.fileno()), _ROOM], _ENVIRONMENT)  # noqa: S606 - no shell
    finally:
        os._exit(127)
