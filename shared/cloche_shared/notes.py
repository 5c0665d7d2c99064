"""What background work says: an event's name and its members, through `logging` into the process's log.

    _log = notes_of(__name__)
    _log.warning("lease_not_renewed", holder=holder, error=str(error))

A program that sets up nothing (a test, a user's own process) hears of it as `logging` does by itself.
"""

import logging

MEMBERS = "cloche_members"
"""The attribute of a `logging` record that holds the members."""


class Notes:
    """Says things under one logger's name."""

    __slots__ = ("_to",)

    def __init__(self, name: str) -> None:
        self._to = logging.getLogger(name)

    def info(self, action: str, **members: object) -> None:
        """Say that something happened."""
        self._to.info(action, extra={MEMBERS: members})

    def warning(self, action: str, **members: object) -> None:
        """Say that something passing is in the way."""
        self._to.warning(action, extra={MEMBERS: members})

    def error(self, action: str, **members: object) -> None:
        """Say that something failed."""
        self._to.error(action, extra={MEMBERS: members})

    def exception(self, action: str, **members: object) -> None:
        """Say that something failed, with the trace of the exception that is being handled."""
        self._to.exception(action, extra={MEMBERS: members})


def notes_of(name: str) -> Notes:
    """Return what a module says things with."""
    return Notes(name)
