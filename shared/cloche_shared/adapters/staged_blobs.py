"""Blobs of another machine as files of this one, for programs that take paths only (uv)."""

import asyncio
import shutil
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cloche_shared.blobs.errors import disk_error
from cloche_shared.ports.blobs import Blobs

MOST_BYTES: Final = 4 << 30
"""Bytes that are kept; the file that was asked for longest ago goes first."""
YOUNGEST: Final = 16
"""So many files that were asked for last stay, however large: somebody reads them now."""


class Staging:
    """A folder of this process alone: emptied at the start and at the end, bounded in between."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most = most_bytes
        self._files: OrderedDict[str, int] = OrderedDict()
        self._making: dict[str, asyncio.Lock] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    async def stage(self, blobs: Blobs, digest: str) -> str:
        """Return a path with a blob's bytes. Raises as `Blobs.read`, and `Unavailable` (`disk_full`)."""
        here = await blobs.file(digest)
        if here is not None:
            return str(here)
        path = self._folder / digest.removeprefix("sha256:")
        async with self._making.setdefault(digest, asyncio.Lock()):
            if digest not in self._files:
                self._files[digest] = await self._fetch(blobs, digest, path)
            self._files.move_to_end(digest)
        self._making.pop(digest, None)
        await self._shrink()
        return str(path)

    async def _fetch(self, blobs: Blobs, digest: str, path: Path) -> int:
        fresh = path.with_name(f".{path.name}")
        size = 0
        try:
            with await asyncio.to_thread(fresh.open, "xb") as file:
                async for chunk in blobs.read(digest):
                    size += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(fresh.rename, path)
        except OSError as error:
            raise disk_error(error) from error
        finally:
            with suppress(FileNotFoundError):
                await asyncio.to_thread(fresh.unlink)
        return size

    async def _shrink(self) -> None:
        while sum(self._files.values()) > self._most and len(self._files) > YOUNGEST:
            digest, _ = self._files.popitem(last=False)
            with suppress(FileNotFoundError):
                await asyncio.to_thread((self._folder / digest.removeprefix("sha256:")).unlink)
