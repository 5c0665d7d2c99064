"""Starting in order, noticing dead tasks, ending in phases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cloche_shared.errors import Internal
from cloche_shared.lifecycle import Lifecycle


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_phases_run_before_tasks_are_cancelled_and_parts_are_left_last() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def part(name: str) -> AsyncIterator[None]:
        yield
        seen.append(f"left {name}")

    async def task() -> None:
        try:
            await for_ever()
        finally:
            seen.append("cancelled")

    async def phase(name: str) -> None:
        seen.append(name)

    async with Lifecycle() as life:
        await life.enter(part("store"))
        await life.enter(part("server"))
        life.spawn("relay", task())
        life.at_end("intake", lambda: phase("intake"))
        life.at_end("flush", lambda: phase("flush"))
        await asyncio.sleep(0)
        life.stop()
        await life.wait()
    assert seen == ["intake", "flush", "cancelled", "left server", "left store"]


async def test_a_task_that_dies_stops_the_process_and_is_named() -> None:
    reports: list[tuple[str, dict[str, object]]] = []

    async def dies() -> None:
        raise ValueError("broken")

    with pytest.raises(Internal, match="relay") as caught:  # noqa: PT012 - the error comes from leaving the inner block
        async with Lifecycle(lambda action, members: reports.append((action, members))) as life:
            life.spawn("relay", dies())
            await life.wait()
    assert isinstance(caught.value.__cause__, ValueError)
    assert reports[0][0] == "task_died"


async def test_a_task_that_just_ends_stops_the_process_too() -> None:
    async def ends() -> None:
        return

    with pytest.raises(Internal, match="sweep"):  # noqa: PT012 - the error comes from leaving the inner block
        async with Lifecycle() as life:
            life.spawn("sweep", ends())
            await life.wait()


async def test_an_error_of_the_body_is_not_hidden() -> None:
    with pytest.raises(KeyError):  # noqa: PT012 - the error comes from leaving the inner block
        async with Lifecycle() as life:
            life.spawn("relay", for_ever())
            raise KeyError("body")


@pytest.mark.looptime
async def test_a_phase_that_is_late_or_fails_does_not_hold_the_end_up() -> None:
    reports: list[str] = []

    async def fails() -> None:
        raise OSError("gone")

    async with Lifecycle(lambda action, _: reports.append(action)) as life:
        life.at_end("slow", for_ever, deadline_s=30)
        life.at_end("broken", fails)
    assert reports == ["phase_late", "phase_failed"]
