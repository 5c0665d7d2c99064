"""Errors as callers of the SDK meet them: the server's problems, and what goes wrong on the way."""

from collections.abc import Mapping

from cloche_shared.errors import (
    ClocheError,
    Conflict,
    Failed,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    Precondition,
    Throttled,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Violation,
)

_BY_STATUS: Mapping[int, type[ClocheError]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    412: Precondition,
    413: TooLarge,
    415: Invalid,
    421: Invalid,
    422: Invalid,
    429: Throttled,
    500: Internal,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: Unavailable,
}
_KNOWN = {"type", "title", "status", "detail", "instance", "code", "errors", "what", "why", "todo"}


def from_problem(status: int, problem: object, text: str) -> ClocheError:
    """Return the error that a problem document (RFC 9457) tells of; other answers get a general code."""
    kind = _BY_STATUS.get(status, Failed)
    if not isinstance(problem, dict) or "code" not in problem:
        return kind("unexpected_answer", f"The server answered {status}.", why=text[:500])
    errors = problem.get("errors")
    violations = [
        Violation(str(one.get("pointer", "")), str(one.get("code", "")), str(one.get("detail", "")))
        for one in (errors if isinstance(errors, list) else [])
        if isinstance(one, dict)
    ]
    extra = {name: value for name, value in problem.items() if name not in _KNOWN}
    whole = str(problem.get("detail") or problem.get("title") or problem["code"])
    return kind(
        str(problem["code"]),
        str(problem.get("what") or whole),
        why=str(problem.get("why", "")),
        todo=str(problem.get("todo", "")),
        violations=violations,
        extra=extra,
    )


def not_running(url: str, why: str) -> Unavailable:
    """Return the error for a server that does not answer at all."""
    return Unavailable(
        "not_running",
        f"No Cloche answers at {url}.",
        why=why,
        todo="Start one with `cloche up -d`, or set CLOCHE_URL.",
    )


def unreachable(url: str, error: Exception) -> Unavailable:
    """Return the error for a server that could not be asked: silence is not the same as absence."""
    if not (isinstance(error, TimeoutError) or "Timeout" in type(error).__name__):
        return not_running(url, str(error))
    return Unavailable(
        "not_answering",
        f"Cloche at {url} does not answer.",
        why="Something listens there and takes requests, and no answer came in time: it hangs or has too much to do.",
        todo="Try again. See `cloche.log` in its data folder; `cloche down`, then `cloche up -d`, starts it anew.",
    )


__all__ = [
    "ClocheError",
    "Conflict",
    "Failed",
    "Forbidden",
    "Internal",
    "Invalid",
    "NotFound",
    "Precondition",
    "Throttled",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "from_problem",
    "not_running",
    "unreachable",
]
