"""The errors that users see: what failed, why, what to do, and a stable code.

    ClocheError
    ├── Invalid            the request cannot be accepted as written
    │   └── TooLarge       … because it is over a limit
    ├── Unauthenticated    no credential, or one that is not known
    ├── Forbidden          a known caller who may not do this
    ├── NotFound           what the request names does not exist
    ├── Conflict           the present state does not allow it
    │   └── Precondition   … because it is not the state that the caller expected
    ├── Throttled          too much at once; the same request is fine later
    ├── Unavailable        a part that is needed does not answer; try again later
    ├── Failed             the work was tried and failed (build, deployment, run)
    └── Internal           our own defect

The kind says how a caller should react; HTTP statuses and exit codes are derived from it at the
edges (`cloche_shared.http.problems`, `cloche.cli`), never here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong in a document: a JSON pointer to it, a code, and a sentence."""

    pointer: str
    code: str
    detail: str


class ClocheError(Exception):
    """An error with a stable code and a remedy.

    `code` is snake_case and never changes its meaning; `what`, `why` and `todo` are sentences for
    people; `violations` point into the request; `extra` holds further machine-readable members.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        why: str = "",
        todo: str = "",
        violations: Sequence[Violation] = (),
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.why = why
        self.todo = todo
        self.violations = tuple(violations)
        self.extra = dict(extra or {})

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.todo) if part)


class Invalid(ClocheError):
    """The request cannot be accepted as written."""


class TooLarge(Invalid):
    """The request or one of its parts is over a limit."""


class Unauthenticated(ClocheError):
    """No credential, or one that is not known."""


class Forbidden(ClocheError):
    """A known caller who may not do this."""


class NotFound(ClocheError):
    """What the request names does not exist, for this caller."""


class Conflict(ClocheError):
    """The present state does not allow it."""


class Precondition(Conflict):
    """The state is not the one that the caller expected."""


class Throttled(ClocheError):
    """Too much at once; the same request is fine later."""


class Unavailable(ClocheError):
    """A part that is needed does not answer; the same request may be sent again."""


class Failed(ClocheError):
    """The work was tried and failed."""


class Internal(ClocheError):
    """A defect of ours."""


def is_disk_full(error: BaseException) -> bool:
    """Tell whether something failed for want of room, and may go well once there is some."""
    return isinstance(error, Unavailable) and error.code == "disk_full"


def is_store_away(error: BaseException) -> bool:
    """Tell whether something failed because a store does not answer, and goes well once it does."""
    return isinstance(error, Unavailable) and error.code == "store_unavailable"
