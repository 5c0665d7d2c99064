"""The garbage collector puts aside what stays, so that its pauses are short."""

import asyncio
import gc

import pytest

from cloche_shared.adapters.garbage import look_again, short_pauses


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


def test_nothing_stays_aside_afterwards() -> None:
    with short_pauses():
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
