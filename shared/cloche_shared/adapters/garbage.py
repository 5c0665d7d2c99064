"""Short pauses for the garbage collector in a process that keeps much in memory.

Python looks at everything that lives, whenever that has grown by a quarter: with 20,000 cached
streams the event loop stood still for 70 to 250 ms at a time, and next to nothing was found. Here
what survived such a look is put aside and not looked at again until `look_again` says so, so each
pause depends on what is new. Almost all garbage ends without the collector; what it alone can end
waits, if it was put aside, for the next look at everything.
"""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

LOOK_AGAIN_S: Final = 600.0
THRESHOLDS: Final = (10_000, 5, 5)
"""New containers until the young are looked at, and after how many looks the next older are too.

With Python's 700 a loaded server spends an eighth of its time on looking at what is about to go."""
_OLDEST: Final = 2


def _put_aside(phase: Literal["start", "stop"], info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == _OLDEST:
        gc.freeze()


@contextmanager
def short_pauses() -> Iterator[None]:
    """Put aside what is there now, and, until the block is left, what survives each full collection.

    What is aside stays there: a process that ends afterwards need not look at it once more.
    """
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    gc.callbacks.append(_put_aside)
    try:
        yield
    finally:
        gc.callbacks.remove(_put_aside)
        gc.set_threshold(*before)


async def look_again(every_s: float = LOOK_AGAIN_S) -> None:
    """Let the next full collection look at everything, now and then, for ever."""
    while True:
        await asyncio.sleep(every_s)
        gc.unfreeze()
