"""`Cloche-Position`: what a caller has seen, so that it reads its own writes.

`<installation>:<stream>@<seq>,<stream>@<seq>…`, newest last, at most 16. Another installation's is
ignored, and so is whatever cannot be read: a position is a courtesy, never an input.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Annotated, Final, cast

from fastapi import Depends, Header, Request
from fastapi.params import Depends as Dependency

from cloche_shared.errors import Unavailable
from cloche_shared.http.exchange import exchange_of
from cloche_shared.journal.commit import StreamId

NEWEST: Final = 16
WAIT_S: Final = 5.0
_PLACE: Final = re.compile(r"([A-Za-z][\w-]{0,63})/([\w.-]{1,255})/([\w.:-]{1,255})@(\d{1,15})").fullmatch

Place = tuple[StreamId, int]
WaitFor = Callable[[StreamId, int], Awaitable[None]]
"""Waits until this service has seen the stream at the number; returns at once when it has."""


def parse_position(text: str, installation: str) -> list[Place]:
    """Return the newest places of this installation."""
    owner, _, rest = text.partition(":")
    if owner != installation or not rest:
        return []
    found = (_PLACE(part.strip()) for part in rest.split(",")[-NEWEST:])
    return [(StreamId(one[1], one[2], one[3]), int(one[4])) for one in found if one]


def format_position(installation: str, places: Iterable[Place]) -> str:
    """Return the header's value, or an empty text."""
    texts = [f"{stream}@{seq}" for stream, seq in places][-NEWEST:]
    return f"{installation}:{','.join(texts)}" if texts else ""


async def catch_up(places: Iterable[Place], kinds: Collection[str], wait_for: WaitFor) -> None:
    """Wait until the places of `kinds` are seen; raises `Unavailable` (`not_caught_up`) after 5 s."""
    wanted = [place for place in places if place[0].kind in kinds]
    if not wanted:
        return
    try:
        async with asyncio.timeout(WAIT_S):
            for stream, seq in wanted:
                await wait_for(stream, seq)
    except TimeoutError:
        raise Unavailable(
            "not_caught_up",
            "This service has not yet seen what you wrote.",
            why=f"It waited for {WAIT_S:g} s.",
            todo="Send the same request again.",
            extra={"retry_after": 1},
        ) from None


class CaughtUp:
    """A dependency: waits until the service has seen what the caller has.

    `kinds` are those that the service keeps a copy of; others are not waited for.
    """

    def __init__(self, installation: str, kinds: Collection[str], wait_for: WaitFor) -> None:
        self._installation = installation
        self._kinds = frozenset(kinds)
        self._wait_for = wait_for

    async def __call__(
        self, request: Request, cloche_position: Annotated[str | None, Header(max_length=4096)] = None
    ) -> None:
        """Wait; raises `Unavailable` (`not_caught_up`)."""
        if not cloche_position:
            return
        exchange = exchange_of(request)
        principal = exchange.principal
        seen = parse_position(cloche_position, self._installation)
        own = [place for place in seen if principal is not None and principal.opens(place[0].project)]
        await catch_up(own, self._kinds, self._wait_for)


def caught_up(installation: str, kinds: Collection[str], wait_for: WaitFor) -> Dependency:
    """Return the dependency for `router(..., dependencies=[caught_up(...)])` or a single route."""
    return cast("Dependency", Depends(CaughtUp(installation, kinds, wait_for)))
