"""Dead letters, as every bus speaks of them."""

from cloche_shared.errors import NotFound


def letter_not_found(letter_id: str) -> NotFound:
    """Return the error for a letter that is not there, or no longer."""
    return NotFound(
        "letter_not_found",
        f"There is no dead letter {letter_id[:64]!r}.",
        why="It was sent again, or never was one.",
        todo="Choose one from `cloche events dead list`.",
    )
