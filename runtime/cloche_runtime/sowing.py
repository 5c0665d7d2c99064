"""What a seedbed does (see `seedbed.py`): forks supervisors, and turns their forks into fresh programs.

A program that ends takes its interpreter apart, and what it would free of ours are pages that it would
have to copy first. So what was imported before the fork is kept alive for good.
"""

import _ast
import _signal  # type: ignore[import-not-found]
import ctypes
import gc
import os
import signal
import socket
import sys
from typing import Collection, Dict, List, Optional

from cloche_runtime import procfs, supervisor
from cloche_runtime.seedbeds import receive
from cloche_runtime.spawn import Reborn

_PATH = 8192
_ARGUMENTS = 45  # of the fields of /proc/self/stat behind the name: where the command line begins; then its end
_IGNORED = (int(signal.SIGPIPE), int(signal.SIGXFSZ))  # by every Python from its start
_KEPT = ("BuiltinImporter", "ExtensionFileLoader")


class Room:
    """Where this process's command line lies, as the kernel shows it."""

    def __init__(self) -> None:
        fields = procfs.read("/proc/self/stat").rpartition(b")")[2].split()
        self._start, end = int(fields[_ARGUMENTS]), int(fields[_ARGUMENTS + 1])
        self._size = end - self._start

    def show(self, argv: List[str]) -> None:
        """Show another command line: a last byte that is not zero tells the kernel that it is one text (proc(5))."""
        if self._start and self._size > 1:
            text = os.fsencode(" ".join(argv))[: self._size - 2]
            ctypes.memmove(self._start, text.ljust(self._size - 1, b"\0") + b".", self._size)


def serve(control_fd: int, fresh: Collection[str]) -> List[str]:
    """Fork a supervisor for each message until the nursery is gone; in a program, return its `sys.argv`.

    `fresh` are the names of the modules that a script finds imported.
    """
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are reaped by the kernel
    room = Room()
    added = [name for name in sys.modules if name not in fresh and not _is_compiled(name)]
    _keep_modules(added)
    _keep_syntax()
    procfs.boot_id()  # what all forks need is read once
    gc.collect()
    gc.disable()
    gc.freeze()
    control.send(b"ready")
    while True:
        folder, owner = receive(control, _PATH)
        if not folder:
            return []
        if os.fork() == 0:
            control.close()
            program = _supervise(os.fsdecode(folder), owner)
            _begin_anew(program.argv, program.env, added)
            room.show(program.argv)
            return program.argv[1:]
        if owner is not None:
            owner.close()


def _supervise(folder: str, owner: Optional[socket.socket]) -> Reborn:
    """Live as the supervisor of `folder`; returns only in the process that is to be its program."""
    status = 70
    try:
        os.setsid()
        _signal.signal(signal.SIGCHLD, _signal.SIG_DFL)
        supervisor.main(folder, owner, warm=True)
        status = 0
    except Reborn as program:
        return program.with_traceback(None)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - the supervisor wrote down what it could; nothing of it may go on here
        os._exit(status)
    os._exit(status)


def _begin_anew(argv: List[str], env: Dict[str, str], added: Collection[str]) -> None:
    """Make this process what its interpreter would have made of a fresh one."""
    for name in added:
        del sys.modules[name]
    for name in [name for name in os.environ if name not in env]:
        del os.environ[name]
    for name, value in env.items():
        os.environ[name] = value
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = argv
    _place_home(env.get("HOME"))
    _signal.signal(signal.SIGINT, _signal.default_int_handler)
    for number in _IGNORED:
        _signal.signal(number, _signal.SIG_IGN)
    gc.enable()


def _place_home(home: Optional[str]) -> None:
    """Let `site` name the folders that it would have found in this home (not in use: see `seedbed.py`)."""
    site = sys.modules["site"]
    if home is None:
        site.USER_BASE = site.USER_SITE = None  # type: ignore[attr-defined]
        site.getusersitepackages()
        return
    for name in ("USER_BASE", "USER_SITE"):
        setattr(site, name, home.rstrip("/") + str(getattr(site, name)))  # they were found for the home "/"


def _is_compiled(name: str) -> bool:
    """Tell whether a module is not Python code; such a one is found again as it is."""
    spec = getattr(sys.modules[name], "__spec__", None)
    loader = getattr(spec, "loader", None)
    return getattr(loader, "__name__", type(loader).__name__) in _KEPT


def _keep_modules(added: Collection[str]) -> None:
    """Keep alive what programs forget, and what modules hold that they find imported; `sys` ends as always."""
    keep = ctypes.pythonapi.Py_IncRef
    for name, module in sys.modules.items():
        if name in added:
            keep(ctypes.py_object(module))
        elif name not in ("sys", "builtins", "__main__"):
            keep(ctypes.py_object(module.__dict__))


def _keep_syntax() -> None:
    """Have the types made that `compile` wants to know, and keep them: each script would make and free them."""
    for one in vars(_ast).values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
    sys.modules.pop("_ast", None)  # no script finds it imported
