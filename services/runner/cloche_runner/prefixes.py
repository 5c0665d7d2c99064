"""Prefixes for attempts: each is checked once for all who ask at the same time, and for a moment after."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from cloche_runner.handlers import MANIFEST_LIMIT, Core
from cloche_shared.contracts.definition import Lock
from cloche_shared.ports.node_files import NodeFiles

FRESH_S = 1.0
"""Seconds for which a prefix that was found whole counts as whole: what many short runs share."""


@dataclass(slots=True)
class _Known:
    making: asyncio.Task[Path]
    at: float


class Prefixes:
    """The environments of one node."""

    def __init__(self, core: Core, files: NodeFiles) -> None:
        self._core = core
        self._files = files
        self._known: dict[str, _Known] = {}

    async def python(self, lock_digest: str, scope: str) -> Path:
        """Return the interpreter of a lock's prefix, made or checked where needed. Raises as `NodeFiles.prefix`."""
        now = self._core.clock.monotonic()
        self._known = {name: one for name, one in self._known.items() if now - one.at < FRESH_S or _is_busy(one)}
        known = self._known.get(lock_digest)
        if known is None:
            making = asyncio.create_task(self._make(lock_digest, scope), name="prefix")
            making.add_done_callback(_heard)
            self._known[lock_digest] = known = _Known(making, now)
        try:
            # one who leaves must not take the prefix from those who stay
            return await asyncio.shield(known.making)
        except Exception:
            if self._known.get(lock_digest) is known:
                del self._known[lock_digest]
            raise

    async def _make(self, lock_digest: str, scope: str) -> Path:
        blobs = self._core.blobs.space("builder", scope)
        lock = Lock.model_validate_json(await blobs.read_bytes(lock_digest, limit=MANIFEST_LIMIT))
        python = (await self._files.prefix(lock_digest, lock, blobs)).python
        known = self._known.get(lock_digest)
        if known is not None:
            known.at = self._core.clock.monotonic()
        return python

    async def close(self) -> None:
        """Stop what is being made."""
        tasks = [known.making for known in self._known.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_busy(known: _Known) -> bool:
    return not known.making.done()


def _heard(task: asyncio.Task[Path]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
