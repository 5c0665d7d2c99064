"""The service's side of the nursery: started when it is first needed, and again when it died."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import cloche_runtime
from cloche_shared.errors import Unavailable

_READY = 20.0  # seconds for an interpreter to start on a machine that is very busy
_SCRIPT = Path(str(cloche_runtime.__file__)).with_name("nursery.py")
_ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8"}


class Nursery:
    """One nursery process and the socket to it."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = asyncio.Lock()

    async def warm(self) -> None:
        """Start the nursery if none is there. Raises `Unavailable`."""
        async with self._lock:
            if self._control is None:
                self._process, self._control = await asyncio.to_thread(_start)

    async def fork(self, folder: Path, interpreter: str = "") -> socket.socket:
        """Have a supervisor forked for `folder` and return our end of the connection to it.

        A warm one may stand for the `interpreter` of a script. A nursery that died is replaced. That the
        message was taken does not mean that the supervisor lives: the connection tells. Raises `Unavailable`.
        """
        asked = os.fsencode(folder) + b"\0" + os.fsencode(interpreter)
        for _ in range(2):
            await self.warm()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            with theirs:
                if await self._send(asked, theirs):
                    return ours
            ours.close()
            await self.close()
        raise Unavailable(
            "executor_unavailable",
            "No process can be started on this node.",
            why="The nursery, which starts them, ended at once, twice.",
            todo="Look at the limits of this machine (processes, memory) and at the service's log.",
        )

    async def _send(self, asked: bytes, theirs: socket.socket) -> bool:
        while self._control is not None:
            try:
                socket.send_fds(self._control, [asked], [theirs.fileno()])
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except OSError:
                return False
            else:
                return True
        return False

    async def close(self) -> None:
        """End the nursery; supervisors live on."""
        async with self._lock:
            control, process = self._control, self._process
            self._control = self._process = None
            if control is not None:
                control.close()
            if process is not None:
                await asyncio.to_thread(_end, process)


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-S", "-E", str(_SCRIPT)],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env=_ENVIRONMENT,  # what runs under it may read its environment, and ours may hold secrets
        )
    ours.settimeout(_READY)
    with suppress(OSError):
        if ours.recv(16) == b"ready":
            ours.setblocking(False)  # noqa: FBT003 - the socket's own signature
            return process, ours
    ours.close()
    _end(process)
    raise Unavailable(
        "executor_unavailable",
        "No process can be started on this node.",
        why=f"The nursery ({sys.executable}) did not come up.",
        todo="Look at the limits of this machine (processes, memory).",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
