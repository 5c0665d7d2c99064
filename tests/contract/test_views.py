"""What every adapter of the port Views promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloche_shared.adapters.memory_views import MemoryViews
from cloche_shared.adapters.sqlite import SqliteFile
from cloche_shared.ports.views import Row, Views
from tests.environments.mongo import mongo_store


def row(key: str, seq: int = 1, sort: str = "", facet: str = "", *, project: str = "default") -> Row:
    return Row("runs", project, key, seq, sort or key, f'{{"seq":{seq}}}'.encode(), facet)


@pytest.fixture(params=["sqlite", "memory", "mongo"])
async def views(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Views]:
    if request.param == "mongo":
        async with mongo_store(request.getfixturevalue("mongo_server")) as store:
            yield store.views
    elif request.param == "sqlite":
        file = await SqliteFile.open(tmp_path / "cloche.db")
        yield file.views("runner")
        await file.close()
    else:
        yield MemoryViews()


async def keys(views: Views, **options: object) -> list[str]:
    return [found.key for found in await views.page("runs", "default", **options)]  # type: ignore[arg-type]  # shorthand


async def test_what_is_upserted_reads_back(views: Views) -> None:
    await views.upsert([row("a", facet="queued")])
    assert await views.get("runs", "default", "a") == row("a", facet="queued")
    assert await views.get("runs", "other", "a") is None


async def test_some_rows_are_found_by_their_keys_as_far_as_they_are_there(views: Views) -> None:
    await views.upsert([row("a"), row("b"), row("c"), row("b", project="other")])
    found = await views.some("runs", "default", ["b", "none", "a"])
    assert found == {"a": row("a"), "b": row("b")}
    assert await views.some("runs", "default", []) == {}


async def test_a_row_with_a_lower_position_is_ignored(views: Views) -> None:
    await views.upsert([row("a", 5)])
    await views.upsert([row("a", 4), row("b", 1)])
    found = await views.get("runs", "default", "a")
    assert found is not None
    assert found.seq == 5
    assert await keys(views) == ["a", "b"]


async def test_a_row_moves_when_its_sort_changes(views: Views) -> None:
    await views.upsert([row("a", sort="1"), row("b", sort="2")])
    await views.upsert([row("a", 2, sort="3")])
    assert await keys(views) == ["b", "a"]


async def test_pages_follow_each_other_without_gap_in_both_directions(views: Views) -> None:
    await views.upsert([row(f"k{number:02d}", sort=str(number // 3)) for number in range(20)])
    for descending in (False, True):
        seen: list[Row] = []
        while page := await views.page(
            "runs",
            "default",
            after=(seen[-1].sort, seen[-1].key) if seen else None,
            limit=6,
            descending=descending,
        ):
            seen += page
        order = [(found.sort, found.key) for found in seen]
        assert order == sorted(order, reverse=descending)
        assert len(order) == 20


async def test_a_page_can_be_filtered_by_facet(views: Views) -> None:
    await views.upsert([row("a", facet="x"), row("b", facet="y"), row("c", facet="x"), row("d")])
    assert await keys(views, facet="x") == ["a", "c"]
    assert await keys(views, facet="x", after=("a", "a")) == ["c"]
    assert await keys(views, facet="") == ["d"]


async def test_projects_do_not_see_each_other(views: Views) -> None:
    await views.upsert([row("a"), row("b", project="other")])
    assert await keys(views) == ["a"]


async def test_a_deleted_row_is_gone(views: Views) -> None:
    await views.upsert([row("a")])
    await views.delete("runs", "default", "a")
    assert await views.get("runs", "default", "a") is None
    assert await keys(views) == []


async def test_waiting_ends_at_once_for_a_position_that_is_there(views: Views) -> None:
    await views.upsert([row("a", 3)])
    await asyncio.wait_for(views.changed("runs", "default", "a", 3), 1)


async def test_waiting_ends_when_the_position_is_reached_and_not_before(views: Views) -> None:
    waiting = asyncio.create_task(views.changed("runs", "default", "a", 2))
    await views.upsert([row("a", 1), row("b", 9)])
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await views.upsert([row("a", 2)])
    await asyncio.wait_for(waiting, 1)
    found = await views.get("runs", "default", "a")
    assert found is not None
    assert found.seq == 2


async def test_waiting_ends_when_the_row_is_removed(views: Views) -> None:
    await views.upsert([row("a", 1)])
    waiting = asyncio.create_task(views.changed("runs", "default", "a", 2))
    await asyncio.sleep(0)
    await views.delete("runs", "default", "a")
    await asyncio.wait_for(waiting, 1)
