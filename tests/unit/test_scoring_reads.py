"""Bodies that stop arriving are given up, and a cancelled request stays cancelled."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from cloche_deployer.scoring.exchange import BodyTimeout, Reads


async def _never() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.looptime
async def test_a_client_that_stops_sending_is_given_up() -> None:
    reads = Reads(idle=30.0)
    with pytest.raises(BodyTimeout) as caught:
        await reads.next(_never)
    assert caught.value.code == "slow_body"
    assert 30 <= asyncio.get_running_loop().time() <= 40
    await asyncio.sleep(20)


@pytest.mark.looptime
async def test_a_cancelled_request_is_not_mistaken_for_a_slow_one() -> None:
    task = asyncio.create_task(Reads(idle=30.0).next(_never))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(10)
