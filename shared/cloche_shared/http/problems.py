"""Errors as RFC 9457 problems: one table from the kind of an error to its status.

Whatever goes wrong, the answer is `application/problem+json` with a stable `code`, and never a
trace, a path or a secret. What we did not foresee carries nothing but the request's id.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from cloche_shared.contracts.common import NAME_PATTERN
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

MEDIA_TYPE: Final = "application/problem+json"
DOCS: Final = "/docs/errors#"
RETRY_AFTER_S: Final = 1

_BY_CODE: Final[Mapping[str, int]] = {
    "malformed_json": 400,
    "bad_request": 400,
    "bad_host": 421,
    "missing_host": 400,
    "not_acceptable": 406,
    "method_not_allowed": 405,
    "slow_body": 408,
    "slow_head": 408,
    "large_head": 431,
    "unsupported_media_type": 415,
    "disk_full": 507,
    "idempotency_key_reused": 422,
}
"""Codes whose status is more exact than that of their kind."""

_BY_KIND: Final[Mapping[type[ClocheError], int]] = {
    TooLarge: 413,
    Invalid: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Precondition: 412,
    Conflict: 409,
    Throttled: 429,
    Unavailable: 503,
    Failed: 422,
    Internal: 500,
}


class ProblemItem(BaseModel):
    """One thing that is wrong in the request: a JSON pointer to it, a code, a sentence."""

    pointer: str = Field(description="RFC 6901 pointer into the body; `#query/…` or `#header/…` elsewhere.")
    code: str
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable; texts are for people and may change."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Where the code is explained, relative to the server.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(description="Stable machine-readable code.")
    request_id: str
    what: str = Field(default="", description="What failed; `detail` says it together with the next two.")
    why: str = Field(default="", description="Why, where that is known.")
    todo: str = Field(default="", description="What to do.")
    errors: list[ProblemItem] = Field(default_factory=list)


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error; 500 for whatever is not ours."""
    if not isinstance(error, ClocheError):
        return 500
    exact = _BY_CODE.get(error.code)
    if exact is not None and not isinstance(error, Internal):
        return exact
    return next((_BY_KIND[kind] for kind in type(error).__mro__ if kind in _BY_KIND), 500)


def problem_of(error: Exception, *, request_id: str = "", instance: str = "") -> dict[str, object]:
    """Return the problem's members. Nothing of an error that is not ours, or is our defect, gets out."""
    status = status_of(error)
    if not isinstance(error, ClocheError) or status == HTTPStatus.INTERNAL_SERVER_ERROR:
        error = Internal(
            "internal",
            "The server failed.",
            why="This is a defect of Cloche.",
            todo="Report it with the request id; the log holds the cause under that id.",
        )
    whole: dict[str, object] = {
        "type": DOCS + error.code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": str(error),
        "instance": instance,
        "code": error.code,
        "request_id": request_id,
        "what": error.what,
    }
    whole |= {name: text for name, text in (("why", error.why), ("todo", error.todo)) if text}
    if error.violations:
        whole["errors"] = [{"pointer": v.pointer, "code": v.code, "detail": v.detail} for v in error.violations]
    return {**error.extra, **whole}


def retry_after(error: Exception) -> int | None:
    """Return the seconds after which the same request may be sent again, where that helps."""
    if not isinstance(error, Throttled | Unavailable):
        return None
    given = error.extra.get("retry_after", RETRY_AFTER_S)
    return max(1, int(given)) if isinstance(given, int | float) else RETRY_AFTER_S


def rendered(
    error: Exception, *, request_id: str = "", instance: str = ""
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of the answer to an error."""
    body = orjson.dumps(problem_of(error, request_id=request_id, instance=instance), default=str)
    status = status_of(error)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b'Bearer realm="cloche"'))
    wait = retry_after(error)
    if wait is not None:
        headers.append((b"retry-after", str(wait).encode()))
    if isinstance(error, ClocheError) and isinstance(allow := error.extra.get("allow"), str):
        headers.append((b"allow", allow.encode()))
    return status, headers, body


# --- pydantic's and the router's errors as ours

_CODES: Final[Mapping[str, str]] = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "json_invalid": "malformed_json",
    "union_tag_invalid": "invalid_field",
    "string_pattern_mismatch": "invalid_field",
    "finite_number": "invalid_field",
}


_NAME_RULE: Final = "A name has 1 to 255 letters, digits, `.`, `_` and `-` (ASCII), and begins with a letter or digit."


def _code(kind: str) -> str:
    if kind in _CODES:
        return _CODES[kind]
    typed = kind.endswith(("_type", "_parsing")) or kind.startswith(("model_attributes", "is_instance"))
    return "invalid_type" if typed else "invalid_field"


def _violation(pointer: str, kind: str, message: str) -> Violation:
    if kind == "string_pattern_mismatch" and NAME_PATTERN in message:
        return Violation(pointer, "invalid_name", _NAME_RULE)
    return Violation(pointer, _code(kind), f"{message}.")


def pointer_of(location: Sequence[object]) -> str:
    """Return the pointer to a pydantic location: RFC 6901 in the body, `#query/name` and the like elsewhere."""
    parts = [str(part).replace("~", "~0").replace("/", "~1") for part in location]
    if parts and parts[0] == "body":
        return "".join(f"/{part}" for part in parts[1:])
    return "#" + "/".join(parts)


def invalid_from(errors: Iterable[Mapping[str, object]], prefix: Sequence[object] = ()) -> Invalid:
    """Return pydantic's errors as one `Invalid`; its code is that of the first violation.

    Messages are pydantic's own sentences, which never repeat what was sent.
    """
    violations = []
    for error in errors:
        location = error.get("loc")
        where = (*prefix, *(location if isinstance(location, tuple | list) else ()))
        violations.append(_violation(pointer_of(where), str(error.get("type")), str(error.get("msg"))))
        if len(violations) == 50:  # noqa: PLR2004 - more would help nobody and cost bytes
            break
    first = violations[0] if violations else Violation("", "invalid_field", "The request is not valid.")
    where_text = f" at `{first.pointer}`" if first.pointer else ""
    return Invalid(
        first.code,
        f"The request is not valid{where_text}.",
        why=first.detail,
        todo="Correct what `errors` points at.",
        violations=violations,
    )


def routing_error(status: int, headers: Mapping[str, str] | None = None) -> ClocheError:
    """Return what the router or a library refused with a bare status as an error of ours."""
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allow = (headers or {}).get("allow") or (headers or {}).get("Allow") or ""
        todo = f"Use one of: {allow}." if allow else ""
        return Invalid("method_not_allowed", "This path does not know the method.", todo=todo, extra={"allow": allow})
    if status == HTTPStatus.NOT_FOUND:
        return NotFound("route_not_found", "There is nothing at this path.", todo="See /docs for what there is.")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLarge("too_large", "The request is too large.")
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Invalid("bad_request", "The request cannot be understood.")
    return Internal("internal", "The server failed.")


# --- OpenAPI

_COMMON: Final[Mapping[int, str]] = {
    400: "The request cannot be understood.",
    401: "No credential, or one that is not known.",
    403: "The caller may not do this.",
    404: "It does not exist, for this caller.",
    405: "The path does not know the method.",
    406: "None of the media types that are asked for can be given.",
    408: "The body came too slowly.",
    409: "The present state does not allow it.",
    412: "The state is not the one that was expected.",
    413: "Too large.",
    415: "Not the media type that is expected.",
    421: "This server does not answer for that host.",
    422: "Not valid.",
    429: "Too much at once; try again later.",
    500: "A defect of Cloche; the answer carries only the request id.",
    503: "A part that is needed does not answer; try again later.",
    507: "The disk is full.",
}


def problem_responses() -> dict[int | str, dict[str, object]]:
    """Return the `responses` that every route documents; `create_app` gives them to all of them."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/HttpProblem"}}}
    return {status: {"description": text, "content": content} for status, text in _COMMON.items()}
