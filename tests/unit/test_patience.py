"""Waits for clients end in time, cheaply, and never swallow the end of their task."""

import asyncio

import pytest
from starlette.types import Message

from cloche_shared.http.patience import TICK_S, Patience

pytestmark = pytest.mark.looptime


def time() -> float:
    return asyncio.get_running_loop().time()


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("nothing comes")


async def after(seconds: float) -> Message:
    await asyncio.sleep(seconds)
    return {"type": "http.request"}


async def test_a_wait_ends_after_its_time() -> None:
    patience, began = Patience(), time()
    for seconds in (30.0, 0.02, 5.0):
        with pytest.raises(TimeoutError):
            await patience.next(never, seconds)
        began, waited = time(), time() - began
        assert seconds - 0.001 <= waited <= seconds + TICK_S


async def test_what_comes_in_time_is_returned_and_nothing_is_left_behind() -> None:
    patience = Patience()
    assert (await patience.next(lambda: after(29.5), 30))["type"] == "http.request"
    assert (await patience.next(lambda: after(0), 30))["type"] == "http.request"
    await asyncio.sleep(100)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_each_of_many_waits_has_its_own_time() -> None:
    patience = Patience()

    async def waited(seconds: float) -> float:
        began = time()
        with pytest.raises(TimeoutError):
            await patience.next(never, seconds)
        return time() - began

    found = await asyncio.gather(*(waited(float(seconds)) for seconds in range(1, 40)))
    assert all(number - 0.001 <= one <= number + TICK_S for number, one in enumerate(found, 1))


async def test_a_task_that_is_cancelled_ends_also_in_the_moment_of_its_time_out() -> None:
    patience = Patience()
    for seconds in (3.0, 5.0, 5.5):
        task = asyncio.create_task(patience.next(never, 5))
        asyncio.get_running_loop().call_later(seconds, task.cancel)
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await task
        assert task.cancelled() or seconds > 5
