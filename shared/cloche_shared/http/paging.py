"""Keyset pages: `page_size` and an opaque `page_token` that survives inserts."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeVar

import orjson
from fastapi import Depends, Query
from pydantic import BaseModel, Field

from cloche_shared.errors import Invalid
from cloche_shared.ports.views import Row

DEFAULT_SIZE: Final = 50
MAX_SIZE: Final = 1000
_MAX_TOKEN: Final = 2048

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A page of a list; `next_page_token` is null on the last one."""

    items: list[T]
    next_page_token: str | None = Field(default=None, description="Send it as `page_token` for the next page.")


@dataclass(frozen=True, slots=True)
class PageQuery:
    """What a list route hands to `Views.page`: ask for `limit` + 1 rows to see whether more follow."""

    limit: int
    after: tuple[str, str] | None


def encode_token(sort: str, key: str) -> str:
    """Return the token of the page behind (`sort`, `key`)."""
    return base64.urlsafe_b64encode(orjson.dumps([sort, key])).rstrip(b"=").decode()


def decode_token(token: str) -> tuple[str, str]:
    """Return sort and key; raises `Invalid` (`invalid_page_token`)."""
    try:
        raw = token.encode("ascii")
        value = orjson.loads(base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        value = None
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):  # noqa: PLR2004 - sort and key
        return value[0], value[1]
    raise Invalid(
        "invalid_page_token",
        "The page token is not one that this server gave.",
        todo="Start again without page_token.",
    )


async def _query(
    page_size: Annotated[int, Query(ge=1, le=MAX_SIZE, description="How many items at most.")] = DEFAULT_SIZE,
    page_token: Annotated[str | None, Query(max_length=_MAX_TOKEN, description="`next_page_token` of a page.")] = None,
) -> PageQuery:
    return PageQuery(page_size, decode_token(page_token) if page_token else None)


Paging = Annotated[PageQuery, Depends(_query)]
"""`paging: Paging` in a list route."""


def page_bytes(rows: Sequence[Row], limit: int) -> bytes:
    """Return a page's JSON from up to `limit` + 1 rows whose bodies are JSON already."""
    shown = rows[:limit]
    token = encode_token(shown[-1].sort, shown[-1].key) if len(rows) > limit else None
    return b'{"items":[' + b",".join(row.body for row in shown) + b'],"next_page_token":' + orjson.dumps(token) + b"}"
