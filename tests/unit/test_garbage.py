"""The garbage collector puts aside what stays, so that its pauses are short."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from cloche_shared.adapters.garbage import THRESHOLDS, look_again, short_pauses


@pytest.fixture(autouse=True)
def nothing_aside() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_survives_a_full_collection_is_put_aside() -> None:
    with short_pauses():
        before = gc.get_freeze_count()
        kept = [[number] for number in range(1000)]
        gc.collect()
        assert gc.get_freeze_count() - before >= len(kept)


def test_a_young_collection_puts_nothing_aside() -> None:
    with short_pauses():
        before = gc.get_freeze_count()
        kept = [[number] for number in range(100)]
        gc.collect(0)
        assert kept
        assert gc.get_freeze_count() <= before


def test_afterwards_python_collects_as_before() -> None:
    before = gc.get_threshold()
    with short_pauses():
        assert gc.get_threshold() == THRESHOLDS
    assert gc.get_threshold() == before
    gc.unfreeze()
    gc.collect()
    assert gc.get_freeze_count() == 0


@pytest.mark.looptime
async def test_everything_is_looked_at_again_now_and_then() -> None:
    with short_pauses():
        looking = asyncio.create_task(look_again(10))
        await asyncio.sleep(9)
        assert gc.get_freeze_count() > 0
        await asyncio.sleep(2)
        found = gc.get_freeze_count()
        looking.cancel()
    assert found == 0
