"""Dead letters, as every bus speaks of them."""

from typing import Final

from cloche_shared.errors import NotFound

RESENT: Final = "cloche.resent"
"""The topic, on a bus with topics, of letters that come again, each for the group that buried it.

Every group reads it; only who answers operators may write it, so that nobody else's facts are forged there.
"""


def letter_not_found(letter_id: str) -> NotFound:
    """Return the error for a letter that is not there, or no longer."""
    return NotFound(
        "letter_not_found",
        f"There is no dead letter {letter_id[:64]!r}.",
        why="It was sent again, or never was one.",
        todo="Choose one from `cloche events dead list`.",
    )
