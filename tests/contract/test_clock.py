"""What every adapter of the ports Clock and Random promises."""

import asyncio
from datetime import UTC, timedelta
from uuid import RFC_4122, UUID

import pytest

from cloche_shared.adapters.system_clock import MemoryClock, SystemClock
from cloche_shared.adapters.system_random import SeededRandom, SystemRandom
from cloche_shared.ports.platform import Clock, Random


@pytest.fixture(params=[SystemClock, MemoryClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


@pytest.fixture(params=["system", "seeded"])
def random(request: pytest.FixtureRequest) -> Random:
    return SystemRandom() if request.param == "system" else SeededRandom(7)


async def test_the_wall_clock_speaks_utc(clock: Clock) -> None:
    assert clock.now().tzinfo is UTC


async def test_both_clocks_go_forward(clock: Clock) -> None:
    before = clock.now(), clock.monotonic()
    await asyncio.sleep(0.002)
    assert clock.monotonic() > before[1]
    assert clock.now() > before[0]


@pytest.mark.looptime
async def test_the_clock_in_memory_goes_with_the_loop() -> None:
    clock = MemoryClock()
    before = clock.now()
    await asyncio.sleep(3600)
    assert clock.now() - before == timedelta(hours=1)


def test_ids_are_unique_sorted_and_of_version_7(random: Random) -> None:
    ids = [random.uuid7() for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert {UUID(one).version for one in ids} == {7}
    assert {UUID(one).variant for one in ids} == {RFC_4122}


def test_tokens_are_url_safe_and_never_repeat(random: Random) -> None:
    tokens = {random.token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) == 32 and token.replace("-", "").replace("_", "").isalnum() for token in tokens)


def test_uniform_stays_within_its_bounds(random: Random) -> None:
    assert all(2.0 <= random.uniform(2.0, 3.0) <= 3.0 for _ in range(1000))


def test_a_seed_repeats_everything() -> None:
    one, two = SeededRandom("s"), SeededRandom("s")
    first = (one.uuid7(), one.token(), one.uniform(0, 1))
    assert first == (two.uuid7(), two.token(), two.uniform(0, 1))


def test_ids_go_on_when_the_wall_clock_steps_back() -> None:
    times = iter([1000, 2000, 500, 2000])
    random = SeededRandom(1, lambda: next(times))
    ids = [random.uuid7() for _ in range(4)]
    assert ids == sorted(set(ids))
