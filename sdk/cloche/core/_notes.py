"""What all modules of this layer tell people with: notes as log lines, refusals as errors."""

import logging
from collections.abc import Iterable
from typing import Final, TypeVar

from cloche.exceptions import AzureMLException, UserErrorException
from cloche.formats.reading import Note

log: Final = logging.getLogger("cloche")
QUIET: Final = ("/channels", "/version", "/docker/baseImage", "/python/condaDependencies")
"""Places whose notes are about defaults that nobody wrote."""
E = TypeVar("E", bound=AzureMLException)


def tell(notes: Iterable[Note]) -> None:
    """Log what was left out or changed, but not what concerns mere defaults."""
    for note in notes:
        level = logging.DEBUG if note.pointer.endswith(QUIET) else logging.WARNING
        log.log(level, "%s (%s)", note.text, note.pointer)


def refused(
    code: str, what: str, why: str = "", todo: str = "", kind: type[AzureMLException] = UserErrorException
) -> AzureMLException:
    """Return the error for something that cannot be done."""
    return kind(code, what, why=why, todo=todo)


def unavailable(feature: str, why: str, todo: str = "", kind: type[AzureMLException] = UserErrorException) -> Exception:
    """Return the error for a part of the known SDK that Cloche has not."""
    return refused("not_available", f"{feature} is not available in Cloche.", why, todo, kind)


def kept_out(kind: type[AzureMLException], **asked: object) -> None:
    """Raise for the first option that says something and has no effect here: none is accepted and ignored."""
    for name, value in asked.items():
        if value not in (None, False, "", [], {}, ()):
            raise unavailable(f"The option {name!r}", "Nothing here would follow it.", "Leave it out.", kind)
