"""What an ended process wrote: the end of it, and all of it as it is shipped."""

from collections.abc import AsyncIterator
from contextlib import suppress

from cloche_shared.ports.executor import Process

TAIL_BYTES = 4096
TAIL_LINES = 20


async def log_tail(process: Process, size: int) -> str:
    """Return the last lines of an ended process's log."""
    data = b""
    with suppress(OSError):
        async for chunk in process.log(max(0, size - TAIL_BYTES), follow=False):
            data = (data + chunk.data)[-TAIL_BYTES:]
    lines = data.decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


async def log_end(process: Process, first: int, mark: str = "") -> AsyncIterator[bytes]:
    """Yield an ended process's log from byte `first` on, after a line of ours that says what is missing."""
    if first:
        yield f"[cloche: the first {first} bytes of this log were not kept, the disk was full]\n".encode()
    async for data in log_bytes(process, mark, first=first):
        yield data


async def log_bytes(process: Process, mark: str = "", *, first: int = 0) -> AsyncIterator[bytes]:
    """Yield an ended process's log, with a line of ours at its end where there is a `mark`."""
    last = b"\n"
    async for chunk in process.log(first, follow=False):
        yield chunk.data
        last = chunk.data[-1:] or last
    if mark:
        yield (mark if last == b"\n" else f"\n{mark}").encode() + b"\n"
