"""Runs one scoring script behind a Unix socket: `python scoring_worker.py` in the user's environment.

It takes its settings from the environment: `CLOCHE_SCORING_SOCKET` (the path it listens on, at most
100 bytes), `AML_APP_ROOT`, `AZUREML_ENTRY_SCRIPT`, `AZUREML_SOURCE_DIRECTORY`, `AZUREML_MODEL_DIR`,
`AZUREML_LOG_LEVEL`, `CLOCHE_SCORING_ORPHAN_SECONDS`. It executes one request at a time, in the order
in which they came. It ends with code 3 when the script cannot serve, and with 0 when no front was
connected for the orphan time. Standard library only; Python 3.8 or newer.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import stat
import struct
import sys
import time
from typing import Any, Dict, Optional, Tuple

_RUNTIME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    # The script's folder must not shadow the user's modules; the package comes last, as a guest.
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(os.path.abspath(__file__))]
    sys.path.append(_RUNTIME)

from cloche_runtime import scoring_frames as frames  # noqa: E402  after the search path is right
from cloche_runtime import scoring_script, scoring_stubs, scoring_swagger  # noqa: E402  the same

MAX_SOCKET_PATH = 100
_GROUPS_OWN = stat.S_ISGID | stat.S_IWGRP
BOOT_ERROR = 3
_RECV = 1 << 16
_READ_AHEAD = 0.005
_SEND_TIMEOUT = struct.pack("ll", 60, 0)


class _Front:
    """One connection of a front."""

    __slots__ = ("reader", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = frames.FrameReader()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)


class Worker:
    """The loop: read what is there, execute in order, answer each before the next begins.

    Each answer leaves before the next request starts, so a front that loses this process knows that
    only the oldest open request can have begun.
    """

    def __init__(self, listener: socket.socket, script: scoring_script.Script, hello: bytes, orphan: float) -> None:
        self._listener = listener
        self._script = script
        self._hello = hello
        self._orphan = orphan
        self._fronts: Dict[int, _Front] = {}
        self._pending: Dict[Tuple[int, int], bytes] = {}
        self._poll = select.poll()
        self._poll.register(listener.fileno(), select.POLLIN)
        self._read_at = 0.0

    def serve(self) -> None:
        """Serve until no front was connected for the orphan time."""
        alone_since = time.monotonic()
        while self._fronts or time.monotonic() - alone_since < self._orphan:
            self._receive(1000 if not self._fronts else None)
            while self._pending:
                if time.monotonic() - self._read_at > _READ_AHEAD:
                    self._receive(0)
                    continue
                self._execute()
            if self._fronts:
                alone_since = time.monotonic()

    def _receive(self, timeout: Optional[int]) -> None:
        for descriptor, _ in self._poll.poll(timeout):
            if descriptor == self._listener.fileno():
                self._accept()
            else:
                self._read(descriptor)
        self._read_at = time.monotonic()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        front = _Front(sock)
        self._fronts[sock.fileno()] = front
        self._poll.register(sock.fileno(), select.POLLIN)
        self._send(sock.fileno(), frames.pack(frames.READY, 0, self._hello))

    def _read(self, descriptor: int) -> None:
        front = self._fronts[descriptor]
        try:
            data = front.sock.recv(_RECV)
            arrived = front.reader.feed(data)
        except (OSError, frames.FrameError):
            data = b""
        if not data:
            self._close(descriptor)
            return
        for kind, number, payload in arrived:
            if kind == frames.REQUEST:
                self._pending[descriptor, number] = payload
            elif kind == frames.CANCEL:
                self._pending.pop((descriptor, number), None)
            elif kind == frames.PING:
                self._send(descriptor, frames.pack(frames.PONG, number))

    def _close(self, descriptor: int) -> None:
        front = self._fronts.pop(descriptor, None)
        if front is not None:
            self._poll.unregister(descriptor)
            front.sock.close()
            self._pending = {key: value for key, value in self._pending.items() if key[0] != descriptor}

    def _send(self, descriptor: int, frame: bytes) -> None:
        front = self._fronts.get(descriptor)
        if front is None:
            return
        try:
            front.sock.sendall(frame)
        except OSError:
            self._close(descriptor)

    def _execute(self) -> None:
        key = next(iter(self._pending))
        payload = self._pending.pop(key)
        descriptor, number = key
        try:
            deadline, request_id, meta, body = frames.unpack_request(payload)
            known: Dict[str, Any] = json.loads(meta) if meta else {}
        except ValueError:
            self._close(descriptor)
            return
        if deadline and time.monotonic() > deadline:
            self._send(descriptor, frames.pack_response(number, 503, frames.NOT_STARTED))
            return
        answer = self._script.answer(known, body, request_id.decode("latin-1"))
        self._send(descriptor, frames.pack_response(number, *answer))


def _listen(path: str) -> socket.socket:
    if not path or len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise SystemExit(f"CLOCHE_SCORING_SOCKET must be a path of 1 to {MAX_SOCKET_PATH} bytes, not {path!r}.")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.stat(os.path.dirname(path) or ".").st_mode
    is_shared = folder & _GROUPS_OWN == _GROUPS_OWN  # by fronts of another user, in a group in common
    before = os.umask(0o117 if is_shared else 0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(16)
    return listener


def _report(listener: socket.socket, error: scoring_script.ScriptError, seconds: float) -> None:
    """Tell the first front that asks why this worker cannot serve."""
    text = {"code": error.code, "what": error.what, "todo": error.todo, "traceback": error.trace[-65536:]}
    payload = json.dumps({"version": frames.VERSION, **text}).encode()
    sys.stderr.write(f"{error.what}\n{error.trace}")
    sys.stderr.flush()
    listener.settimeout(seconds)
    try:
        sock, _ = listener.accept()
        sock.settimeout(10.0)
        sock.sendall(frames.pack(frames.FAILED, 0, payload))
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(_RECV):
            pass
    except OSError:
        sys.stderr.write("No front asked for this error.\n")


def _logging(root: str) -> None:
    import logging.config  # noqa: PLC0415  after the socket is there; it costs milliseconds

    for folder in (root, os.path.dirname(os.path.join(root, os.environ.get("AZUREML_ENTRY_SCRIPT", "")))):
        path = os.path.join(folder, "logging.json")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                logging.config.dictConfig(json.load(file))
            return
    logging.Formatter.converter = time.gmtime
    level = os.environ.get("AZUREML_LOG_LEVEL", "INFO").upper()
    logging.basicConfig(
        stream=sys.stdout,
        level=level if level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL") else "INFO",
        format="%(asctime)s %(levelname).1s [%(process)d] %(name)s - %(message)s",
    )


def main() -> int:
    """Run one worker; returns the exit code."""
    orphan = float(os.environ.get("CLOCHE_SCORING_ORPHAN_SECONDS", "60"))
    root = os.path.abspath(os.environ.get("AML_APP_ROOT", "."))
    entry = os.environ.get("AZUREML_ENTRY_SCRIPT") or "main.py"
    source = os.environ.get("AZUREML_SOURCE_DIRECTORY")
    listener = _listen(os.environ.get("CLOCHE_SCORING_SOCKET", ""))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # text streams over pipes
    scoring_stubs.install()
    if source:
        sys.path.insert(0, os.path.join(root, source))
    try:
        _logging(root)
        script = scoring_script.load(root, entry)
        script.start()
    except scoring_script.ScriptError as error:
        _report(listener, error, orphan)
        return BOOT_ERROR
    except (OSError, ValueError) as error:
        _report(listener, scoring_script.ScriptError("script_import_error", f"logging.json: {error}"), orphan)
        return BOOT_ERROR
    hello = {
        "version": frames.VERSION,
        "pid": os.getpid(),
        "python": "{}.{}.{}".format(*sys.version_info[:3]),
        "headers": script.wants_headers,
        "methods": script.kind == "raw",
        "swagger": scoring_swagger.describe(root, script),
    }
    gc.collect()
    gc.freeze()
    Worker(listener, script, json.dumps(hello).encode(), orphan).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
