"""Connections to scoring workers over Unix sockets."""

import asyncio
from typing import cast

from cloche_deployer.scoring.ports import LinkOwner
from cloche_runtime.scoring_frames import FrameError, FrameReader
from cloche_shared.errors import Unavailable


class _UnixLink(asyncio.Protocol):
    def __init__(self, owner: LinkOwner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._out: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for kind, number, payload in self._reader.feed(data):
                self._owner.received(kind, number, payload)
        except (FrameError, ValueError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the signature of asyncio
        self._transport = None
        self._owner.lost()

    def send(self, frame: bytes) -> None:
        out = self._out
        out.append(frame)
        if len(out) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        out = self._out
        self._out = []
        if self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class UnixConnector:
    """Connects to workers on this machine."""

    async def connect(self, path: str, owner: LinkOwner) -> _UnixLink:
        """Connect. Raises `Unavailable` while nobody listens at `path`."""
        try:
            _, link = await asyncio.get_running_loop().create_unix_connection(lambda: _UnixLink(owner), path)
        except OSError as error:
            what = "The scoring worker does not listen yet."
            raise Unavailable("worker_not_listening", what, why=str(error)) from error
        return link
