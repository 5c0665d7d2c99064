"""Keyset pages: `page_size` and an opaque `page_token` that survives inserts."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final, Generic, TypeVar

import orjson
from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field

from cloche_shared.errors import Invalid
from cloche_shared.ports.views import Row

DEFAULT_SIZE: Final = 50
MAX_SIZE: Final = 1000
_MAX_TOKEN: Final = 2048
_SEAL_BYTES: Final = 6

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A page of a list; `next_page_token` is null on the last one."""

    items: list[T]
    next_page_token: str | None = Field(default=None, description="Send it as `page_token` for the next page.")


@dataclass(frozen=True, slots=True)
class PageQuery:
    """What a list route hands to `Views.page`: ask for `limit` + 1 rows to see whether more follow.

    `path` names the list, which its tokens are for.
    """

    limit: int
    after: tuple[str, str] | None
    path: str = ""

    def token(self, sort: str, key: str) -> str:
        """Return the token of the page behind (`sort`, `key`)."""
        return encode_token(self.path, sort, key)


def encode_token(path: str, sort: str, key: str) -> str:
    """Return the token of the page behind (`sort`, `key`) in the list at `path`."""
    place = orjson.dumps([sort, key])
    return base64.urlsafe_b64encode(_seal(path, place) + place).rstrip(b"=").decode()


def _seal(path: str, place: bytes) -> bytes:
    """Return what binds a place to its list. Not a secret: what a token can name may be read anyway."""
    return sha256(path.encode(errors="replace") + b"\n" + place).digest()[:_SEAL_BYTES]


def decode_token(path: str, token: str) -> tuple[str, str]:
    """Return sort and key; raises `Invalid` (`invalid_page_token`) for what is no token of the list at `path`."""
    try:
        raw = token.encode("ascii")
        whole = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
        value = orjson.loads(whole[_SEAL_BYTES:])
    except (ValueError, binascii.Error):
        value = None
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):  # noqa: PLR2004 - sort and key
        sort, key = value
        if encode_token(path, sort, key) == token:
            return sort, key
    raise Invalid(
        "invalid_page_token",
        "The page token is not one that this list gave.",
        todo="Start again without page_token.",
    )


async def _query(
    request: Request,
    page_size: Annotated[int, Query(ge=1, le=MAX_SIZE, description="How many items at most.")] = DEFAULT_SIZE,
    page_token: Annotated[str | None, Query(max_length=_MAX_TOKEN, description="`next_page_token` of a page.")] = None,
) -> PageQuery:
    path: str = request.scope["path"]
    return PageQuery(page_size, decode_token(path, page_token) if page_token else None, path)


Paging = Annotated[PageQuery, Depends(_query)]
"""`paging: Paging` in a list route."""


def page_bytes(rows: Sequence[Row], paging: PageQuery) -> bytes:
    """Return a page's JSON from up to `paging.limit` + 1 rows whose bodies are JSON already."""
    shown = rows[: paging.limit]
    token = paging.token(shown[-1].sort, shown[-1].key) if len(rows) > paging.limit else None
    return b'{"items":[' + b",".join(row.body for row in shown) + b'],"next_page_token":' + orjson.dumps(token) + b"}"
