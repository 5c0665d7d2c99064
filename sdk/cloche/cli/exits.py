"""Exit codes, and errors as they are shown: what failed, why, what to do, and the code."""

from collections.abc import Mapping
from typing import Final

from cloche._errors import ClocheError, Conflict, Invalid, NotFound

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2
MISSING: Final = 3
CONFLICT: Final = 4
TIMED_OUT: Final = 124
INTERRUPTED: Final = 130

_TIME_OUTS: Final = {"timeout", "timed_out", "wait_timeout"}


def exit_code(error: BaseException) -> int:
    """Return the exit code that an error stands for."""
    if isinstance(error, TimeoutError):
        return TIMED_OUT
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, ClocheError):
        return TIMED_OUT if error.code in _TIME_OUTS else _by_kind(error)
    return FAILURE


def _by_kind(error: ClocheError) -> int:
    for kind, code in ((NotFound, MISSING), (Conflict, CONFLICT), (Invalid, USAGE)):
        if isinstance(error, kind):
            return code
    return FAILURE


def exit_code_of_problem(code: str) -> int:
    """Return the exit code for the problem that ended a run, a build or a deployment.

    An environment or model that does not exist was named by the user; a package that does not exist
    is a failure of the build.
    """
    named = code.startswith(("environment_", "model_", "label_"))
    return MISSING if named and code.endswith(("_not_found", "_deleted")) else FAILURE


def shown(error: BaseException) -> dict[str, object]:
    """Return an error as JSON shows it."""
    if isinstance(error, ClocheError):
        whole: dict[str, object] = {
            "code": error.code,
            "what": error.what,
            "why": error.why,
            "todo": error.todo,
        }
        violations = [{"pointer": one.pointer, "code": one.code, "detail": one.detail} for one in error.violations]
        return {**whole, **({"errors": violations} if violations else {}), **_extra(error.extra)}
    if isinstance(error, TimeoutError):
        what = _sentence(str(error) or "It took too long.")
        return {
            "code": "timed_out",
            "what": what,
            "why": "",
            "todo": "Wait longer with --timeout, or look again later.",
        }
    return {
        "code": "internal",
        "what": "Something went wrong that Cloche did not expect.",
        "why": f"{type(error).__name__}: {error}",
        "todo": "Say it again with --debug to see where, and report it.",
    }


def _extra(extra: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in extra.items() if key not in {"code", "what", "why", "todo", "errors"}}


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def lines(error: BaseException) -> list[str]:
    """Return an error for people, without colours."""
    told = shown(error)
    found = [f"error: {told['what']}"]
    violations = told.get("errors")
    for one in violations if isinstance(violations, list) else []:
        detail = str(one["detail"])
        if detail and detail not in str(told["what"]):
            found.append(f"  {one['pointer']}: {detail}")
    found.extend(f"  {label}: {told[key]}" for label, key in (("why", "why"), ("do", "todo")) if told[key])
    return [*found, f"  code: {told['code']}"]
