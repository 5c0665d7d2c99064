"""Header rules and bodies of the scoring front: pure functions over bytes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from cloche_shared.errors import ClocheError
from cloche_shared.http.problems import problem_of

Pairs = list[tuple[bytes, bytes]]

HEADER_LIMIT = 100
SERVER = (b"x-ms-server-version", b"cloche/0.1.0")
JSON = (b"content-type", b"application/json")
PROBLEM = (b"content-type", b"application/problem+json")
TEXT = (b"content-type", b"text/plain; charset=utf-8")

# The fields that the front itself looks at; everything else is only passed on to scripts that want it.
OURS = b"cloche-"
"""How the names of fields begin that are ours alone."""
KEY_PREFIX = "clochesvc_"
"""How the keys of services begin."""
WATCHED = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"transfer-encoding",
        b"origin",
        b"access-control-request-method",
        b"cloche-position",
        b"cloche-project",
        b"traceid",
        b"traceparent",
        b"x-request-id",
        b"x-ms-request-id",
        b"x-ms-client-request-id",
    }
)
_CONNECTION = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-ms-run-function-failed",
        b"x-request-id",
        b"x-ms-request-id",
        b"x-ms-client-request-id",
        b"x-ms-server-version",
        b"x-ms-run-fn-exec-ms",
    }
)
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_CONTROLS = frozenset({*range(32), 127} - {ord("\t")})


class IdTooLong(Exception):
    """A request id of the client's is over its limit."""


@dataclass(frozen=True, slots=True)
class RequestIds:
    """The ids of one request: ours or the client's, the legacy one, and the client's own (or empty)."""

    request: bytes
    legacy: bytes
    client: bytes

    def pairs(self) -> Pairs:
        """Return the response's fields."""
        fields = [(b"x-request-id", self.request), (b"x-ms-request-id", self.legacy)]
        if self.client:
            fields.append((b"x-ms-client-request-id", self.client))
        return fields


def request_ids(fields: Mapping[bytes, bytes], new_id: bytes) -> RequestIds:
    """Apply the rules for the three ids. Raises `IdTooLong`."""
    request = fields.get(b"x-request-id", new_id)
    if len(request) > HEADER_LIMIT:
        raise IdTooLong(f"x-request-id must not exceed {HEADER_LIMIT} characters")
    legacy = fields.get(b"x-ms-request-id", b"")
    client = fields.get(b"x-ms-client-request-id", b"")
    if len(legacy) > HEADER_LIMIT or len(client) > HEADER_LIMIT:
        raise IdTooLong(f"x-ms-request-id and x-ms-client-request-id must not exceed {HEADER_LIMIT} characters")
    return RequestIds(request, legacy or client or request, client or legacy)


def message_body(text: str) -> bytes:
    """Return an error as Azure's server words it."""
    return json.dumps({"message": text}).encode()


def problem(error: ClocheError, ids: RequestIds | None, instance: str, status: int) -> tuple[int, bytes]:
    """Return status and body of a problem; `status` (unless 0) is more exact than the error's kind."""
    request_id = ids.request.decode("latin-1") if ids is not None else ""
    document = problem_of(error, request_id=request_id, instance=instance)
    if status:
        document |= {"status": status, "title": HTTPStatus(status).phrase}
    found = document["status"]
    return found if isinstance(found, int) else 500, json.dumps(document, default=str).encode()


def bearer(fields: Mapping[bytes, bytes]) -> str:
    """Return the presented token, or an empty string."""
    scheme, _, token = fields.get(b"authorization", b"").partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


def script_headers(raw: bytes) -> Pairs:
    """Return a script's own response fields, without those that belong to the connection or to us.

    What replicas tell each other (`onward`) no script can say.
    Fields that could break the framing of the response (control characters, odd names) are left out.
    """
    pairs = []
    for name, value in json.loads(raw):
        key = name.lower().encode("utf-8")
        text = value.encode("utf-8")
        if key in _CONNECTION or key.startswith(OURS) or not key or not _TOKEN.issuperset(key):
            continue
        if not _CONTROLS.isdisjoint(text):
            continue
        pairs.append((key, text))
    return pairs


def allowed_origin(origin: bytes, allowed: tuple[str, ...]) -> Pairs:
    """Return the CORS fields for a request from `origin`."""
    if not origin or not allowed:
        return []
    if "*" in allowed:
        return [(b"access-control-allow-origin", b"*")]
    if origin.decode("latin-1") in allowed:
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
    return []
