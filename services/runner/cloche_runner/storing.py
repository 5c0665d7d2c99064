"""What an ended attempt left is stored: outputs, uploads, log; as much as fits, where the disk stays full."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from cloche_runner.domain.endings import NO_ROOM
from cloche_runner.handlers import Core
from cloche_runner.ports import AttemptFiles
from cloche_runner.spooled import log_bytes, log_end
from cloche_shared.bus.dispatch import TRANSIENT
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import Problem
from cloche_shared.contracts.runs import Ended
from cloche_shared.errors import ClocheError, is_disk_full
from cloche_shared.notes import notes_of
from cloche_shared.ports.blobs import Blob
from cloche_shared.ports.executor import Process
from cloche_shared.ports.node_files import NAMED, SHOWN_FAULTS, Budget, NodeFiles, PartlyCollectedError
from cloche_shared.store.hashing import manifest_bytes

LAST_LOG_BYTES = 64 * 1024
"""So much of a log's end is kept where there is no room for all of it."""

_log = notes_of(__name__)


class Storing:
    """Stores what one attempt left, in one or more tries."""

    def __init__(
        self,
        core: Core,
        files: NodeFiles,
        attempts: AttemptFiles,
        project: str,
        attempt_id: str,
        folders: Sequence[str],
    ) -> None:
        self._core = core
        self._files = files
        self._attempts = attempts
        self._folders = folders
        self._id = attempt_id
        self._blobs = core.space(project)
        self._full_since: float | None = None
        """When there was no room for the first time, by the monotonic clock."""
        self._last = False
        self._budget = Budget(core.settings.outputs_bytes)
        self._missing: list[str] = []
        """What there was no room for, in clauses."""

    def begin(self) -> None:
        """Begin a try; it is the last when the disk has been full for too long."""
        since = self._full_since
        self._last = since is not None and self._core.clock.monotonic() - since >= self._core.settings.room_wait
        self._missing = []
        if self._last:
            self._core.reserve.give_up()  # for what is small

    def failed(self, error: Exception) -> None:
        """Take note of why a try failed."""
        if self._full_since is None and is_disk_full(error):
            self._full_since = self._core.clock.monotonic()

    def waits(self) -> float | None:
        """Return for how many seconds more it is tried to find room; None where there is room, as far as is known."""
        if self._full_since is None:
            return None
        return max(0.0, self._full_since + self._core.settings.room_wait - self._core.clock.monotonic())

    def left_out(self) -> tuple[str, ...]:
        """Return what was not kept, in clauses."""
        more = len(self._missing) - NAMED
        return (*self._budget.told(), *self._missing[:NAMED], *([f"and {more} more"] if more > 0 else ()))

    def no_room(self) -> Problem | None:
        """Return the problem of a run for which there was not enough room; None where there was."""
        if not self._missing:
            return None
        wait, more = self._core.settings.room_wait, len(self._missing) - SHOWN_FAULTS
        named = "; ".join(self._missing[:SHOWN_FAULTS]) + (f"; and {more} more" if more > 0 else "")
        return Problem(
            code=NO_ROOM,
            message=f"The disk was full for {wait:g} s, so not all that the run left could be kept. Missing: {named}.",
            todo="Free some space on the disk that holds the data folder, or let the script write less;"
            " then submit the run again.",
        )

    async def outputs(self) -> tuple[str, Problem | None]:
        """Store what lies in the attempt's folders; return the digest of its manifest, and what could not be stored.

        Uploads win over files of their name. Raises one of `TRANSIENT` when the store does not answer.
        """
        self._budget = budget = Budget(self._core.settings.outputs_bytes, last=self._last)
        (left, fault), (uploaded, other) = await asyncio.gather(
            self._kept(lambda: self._left(budget), "its outputs"),
            self._kept(lambda: self._attempts.uploads(self._id, self._blobs, budget), "its uploads"),
        )
        entries: dict[str, FileEntry] = {entry.path: entry for entry in (*left, *uploaded)}
        manifest = manifest_bytes(Manifest(files=tuple(entries[path] for path in sorted(entries))))
        return (await self._put_surely(manifest)).digest, fault or other

    async def _left(self, budget: Budget) -> Iterable[FileEntry]:
        return (await self._files.collect(self._id, tuple(self._folders), self._blobs, budget)).files

    async def _put_surely(self, data: bytes) -> Blob:
        """Store something small; when nothing is tried again, in the room that is kept for ends."""
        if self._last:
            return await self._core.surely(lambda: self._blobs.put_bytes(data))
        return await self._blobs.put_bytes(data)

    async def _kept(
        self, work: Callable[[], Awaitable[Iterable[FileEntry]]], what: str
    ) -> tuple[Iterable[FileEntry], Problem | None]:
        """Return what was collected, and what was not; only a store that does not answer is raised."""
        try:
            return await work(), None
        except TRANSIENT as error:
            self._bear(error, what)
            return (), None
        except PartlyCollectedError as error:
            if self._budget.no_room:
                self._missing += error.faults
            return error.kept, problem_of(error)
        except Exception as error:  # noqa: BLE001 - code that ended must not run again for a defect of ours
            _log.exception("outputs_not_collected")
            return (), not_collected(error.what if isinstance(error, ClocheError) else type(error).__name__)

    def _bear(self, error: BaseException, what: str) -> None:
        """Do without something for which there is no room; raise any other error, and while it is tried again."""
        if not self._last or not is_disk_full(error):
            raise error
        self._missing.append(f"{what}: there is no room")

    async def metrics(self, drain: Callable[[], Awaitable[None]]) -> None:
        """Record the rest of what the script logged."""
        try:
            await drain()
        except TRANSIENT as error:
            self._bear(error, "the last of its metrics")

    async def log(self, process: Process, ended: Ended, mark: str = "") -> Ended:
        """Ship the log, if there is one, with a line of ours at its end."""
        if not ended.log_bytes:
            return ended
        try:
            blob = await self._blobs.put(log_bytes(process, mark))
        except TRANSIENT as error:
            first = max(0, ended.log_bytes - LAST_LOG_BYTES)
            self._bear(error, f"the first {first:,} bytes of its log" if first else "its log")
            blob = await self._put_surely(await _whole(log_end(process, first, mark)))
        return ended.model_copy(update={"log": blob.digest, "log_bytes": blob.size})


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def not_collected(why: str) -> Problem:
    """Return the problem of outputs that cannot be collected at all."""
    return problem_of(PartlyCollectedError([why.rstrip(".")], ()))


def problem_of(error: Exception) -> Problem:
    """Return an error as facts hold it."""
    if isinstance(error, ClocheError):
        message = " ".join(part for part in (error.what, error.why) if part)
        return Problem(code=error.code, message=message, todo=error.todo, extra=dict(error.extra))
    return Problem(code="store_unavailable", message="The store did not answer while the attempt was prepared.")
