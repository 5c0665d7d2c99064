"""Views: what lists are read from. Written by projectors only; nothing is decided on them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """One aggregate in a list.

    `seq` is the aggregate's position, `sort` the text that pages are ordered by (unique within the
    view and project when joined with `key`), `facet` one value that lists can be filtered by, and
    `body` the JSON that is shown.
    """

    view: str
    project: str
    key: str
    seq: int
    sort: str
    body: bytes
    facet: str = ""


class Views(Protocol):
    """Upsert by key and position; pages by key."""

    async def upsert(self, rows: Sequence[Row]) -> None:
        """Write rows; one with a lower `seq` than what is there is ignored. Need not be durable at once."""

    async def get(self, view: str, project: str, key: str) -> Row | None:
        """Return one row."""

    async def some(self, view: str, project: str, keys: Collection[str]) -> dict[str, Row]:
        """Return those of up to a page's rows that are there, by key; one question for all of them."""

    async def page(
        self,
        view: str,
        project: str,
        *,
        facet: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int = 50,
        descending: bool = False,
    ) -> list[Row]:
        """Return up to `limit` rows behind `after` (`sort`, `key`) in order of (`sort`, `key`).

        The cost depends on `limit`, never on how many rows there are.
        """

    async def delete(self, view: str, project: str, key: str) -> None:
        """Remove a row."""

    async def changed(self, view: str, project: str, key: str, seq: int) -> None:
        """Wait until the row has at least this position."""
