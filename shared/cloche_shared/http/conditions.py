"""Headers that make a request conditional, patient, or safe to send again."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final

from fastapi import Depends, Header, Request

from cloche_shared.errors import Invalid, Precondition

MAX_WAIT_S: Final = 60
_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}").fullmatch
_WAIT: Final = re.compile(r"wait=(\d{1,9})").fullmatch


def etag_of(seq: int) -> str:
    """Return the strong entity tag of a stream at `seq`."""
    return f'"{seq}"'


@dataclass(frozen=True, slots=True)
class IfMatch:
    """The tags of an `If-Match` header; empty when there is none."""

    tags: tuple[str, ...] = ()

    @property
    def seq(self) -> int | None:
        """The one sequence number that is expected, for a decision that checks it itself; None: any."""
        numbers = [tag.strip('"') for tag in self.tags]
        return int(numbers[0]) if len(numbers) == 1 and numbers[0].isdigit() else None

    def check(self, seq: int) -> None:
        """Raise `Precondition` (`etag_mismatch`) unless the stream is where the caller saw it."""
        if not self.tags or "*" in self.tags or etag_of(seq) in self.tags:
            return
        raise Precondition(
            "etag_mismatch",
            "It has changed since you read it.",
            todo="Read it again and decide on what is there now.",
            extra={"etag": etag_of(seq)},
        )


def parse_if_match(value: str | None) -> IfMatch:
    """Read an `If-Match` header; weak tags never match (RFC 9110 §13.1.1). Raises `Invalid` (`invalid_header`)."""
    if value is None:
        return IfMatch()
    if value.strip() == "*":
        return IfMatch(("*",))
    tags = tuple(_TAG.findall(value))
    if not tags or _TAG.sub("", value).strip(", \t"):
        raise Invalid("invalid_header", "The If-Match header is not a list of entity tags.")
    return IfMatch(tags)


async def _if_match(if_match: Annotated[str | None, Header(max_length=1024)] = None) -> IfMatch:
    return parse_if_match(if_match)


Matching = Annotated[IfMatch, Depends(_if_match)]
"""`matching: Matching` in a route that changes something."""


LONGEST_PREFER = 256
"""Characters of a `Prefer` header."""


@dataclass(frozen=True, slots=True)
class Preference:
    """How patient the caller is (RFC 7240): seconds to wait for the outcome; None: nothing said, 0: answer at once."""

    wait_s: int | None = None


def parse_prefer(value: str | None) -> Preference:
    """Read a `Prefer` header. What is not understood is ignored, as RFC 7240 §2 asks."""
    wait: int | None = None
    for part in (value or "").split(","):
        word = part.partition(";")[0].strip().lower().replace(" ", "").replace('"', "")
        if word == "respond-async":
            wait = wait if wait is not None else 0
        elif found := _WAIT(word):
            wait = min(int(found[1]), MAX_WAIT_S)
    return Preference(wait)


async def _prefer(prefer: Annotated[str | None, Header(max_length=LONGEST_PREFER)] = None) -> Preference:
    return parse_prefer(prefer)


Preferred = Annotated[Preference, Depends(_prefer)]
"""`preferred: Preferred` in a route whose work takes long."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A request's identity. `key` is empty when the caller sent no `Idempotency-Key`.

    `fingerprint` tells whether the same key came with another request (method, path, body).
    """

    key: str = ""
    fingerprint: str = ""

    def request_id(self, project: str) -> str:
        """Return the id under which the outcome is kept, or an empty text: nobody will ask again.

        It is a hash, so that a key may hold any visible character.
        """
        return "k" + sha256(f"{project}\n{self.key}".encode()).hexdigest()[:40] if self.key else ""

    def same(self, fingerprint: str) -> None:
        """Raise `Invalid` (`idempotency_key_reused`) when the key belonged to another request."""
        if fingerprint != self.fingerprint:
            raise Invalid(
                "idempotency_key_reused",
                "This Idempotency-Key was used for another request.",
                todo="Use a new key for each new request; repeat a key only with the same body.",
            )


def check_key(key: str | None, others: Iterable[str] = ()) -> str:
    """Return the key, or an empty text; `others` are all that the request brought.

    Raises `Invalid` (`invalid_idempotency_key`), also for two that differ: nobody knows which is meant.
    """
    if key is None:
        return ""
    if any(other != key for other in others):
        raise Invalid("invalid_idempotency_key", "The request has several Idempotency-Keys.", todo="Send one.")
    if not _KEY(key):
        raise Invalid("invalid_idempotency_key", "An Idempotency-Key is 1 to 255 visible ASCII characters.")
    return key


def fingerprint_of(method: str, path: str, query: bytes, body: bytes) -> str:
    """Return what identifies a request's content."""
    return sha256(b"\n".join((method.encode(), path.encode(), query, sha256(body).digest()))).hexdigest()


async def _request_key(
    request: Request, idempotency_key: Annotated[str | None, Header(max_length=1024)] = None
) -> RequestKey:
    key = check_key(idempotency_key, request.headers.getlist("idempotency-key"))
    if not key:
        return RequestKey()
    scope = request.scope
    return RequestKey(key, fingerprint_of(scope["method"], scope["path"], scope["query_string"], await request.body()))


Once = Annotated[RequestKey, Depends(_request_key)]
"""`once: Once` in every route that changes something. Not for streamed uploads: it reads the body."""
