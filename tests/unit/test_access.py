"""Tokens, principals, the table of actions, and the gate for failed attempts."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from cloche_shared.access import (
    ACTIONS,
    MOST_WAITING,
    ON_ITS_WAY_S,
    SUSPECT_AFTER,
    AccessTable,
    FailureGate,
    KeyRates,
    Principal,
    Role,
    issue_key,
    split_token,
    verify,
)
from cloche_shared.adapters.system_random import SystemRandom
from cloche_shared.contracts.facts import ApiKeyIssued, ApiKeyRevoked, ProjectCreated
from cloche_shared.errors import ClocheError

PEPPER = b"0123456789abcdef0123456789abcdef"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class HandClock:
    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.at)

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def table(clock: HandClock) -> AccessTable:
    return AccessTable(PEPPER, clock)


def issued(table: AccessTable, role: Role = "submitter", expires: str = "") -> str:
    key = issue_key(SystemRandom(), PEPPER)
    table.apply(ApiKeyIssued(key_id=key.key_id, digest=key.digest, role=role, projects=("default",), expires=expires))
    return key.token


def test_a_token_names_its_key_and_holds_160_random_bits() -> None:
    key = issue_key(SystemRandom(), PEPPER)
    parts = split_token(key.token)
    assert parts is not None
    assert parts[0] == key.key_id
    assert len(parts[1]) * 6 >= 160
    assert parts[1] not in key.digest
    assert verify(parts[1], key.digest, PEPPER)
    assert not verify(parts[1], key.digest, PEPPER[::-1])


def test_an_issued_key_authenticates_and_a_revoked_one_does_not(table: AccessTable) -> None:
    token = issued(table)
    principal = table.authenticate(token)
    assert principal is not None
    assert principal.projects == ("default",)
    assert table.remembers(token)
    table.apply(ApiKeyRevoked(key_id=principal.subject.removeprefix("key:")))
    assert not table.remembers(token)
    assert table.authenticate(token) is None


def test_a_revocation_that_comes_before_its_key_still_holds(table: AccessTable) -> None:
    key = issue_key(SystemRandom(), PEPPER)
    table.apply(ApiKeyRevoked(key_id=key.key_id))
    table.apply(ApiKeyIssued(key_id=key.key_id, digest=key.digest, role="admin", projects=("default",)))
    assert table.authenticate(key.token) is None


def test_a_key_expires_also_when_it_is_remembered(table: AccessTable, clock: HandClock) -> None:
    token = issued(table, expires=(NOON + timedelta(seconds=10)).isoformat())
    assert table.authenticate(token) is not None
    clock.at = 10
    assert table.authenticate(token) is None


@pytest.mark.parametrize("token", ["", "cloche", "cloche__", "cloche_ab_", "other_ab_cd", "cloche_ab_cd", "c" * 10_000])
def test_what_is_no_token_of_ours_opens_nothing(table: AccessTable, token: str) -> None:
    issued(table)
    assert table.authenticate(token) is None


def test_remembered_tokens_are_bounded(clock: HandClock) -> None:
    table = AccessTable(PEPPER, clock, remembered=2)
    tokens = [issued(table) for _ in range(3)]
    assert all(table.authenticate(token) for token in tokens)
    assert [table.remembers(token) for token in tokens] == [False, True, True]


def test_facts_of_other_kinds_are_ignored(table: AccessTable) -> None:
    token = issued(table)
    table.authenticate(token)
    table.apply(ProjectCreated.model_construct())
    assert table.remembers(token)


def test_a_table_that_is_never_behind_is_never_stale(table: AccessTable, clock: HandClock) -> None:
    clock.at = 1e9
    assert table.stale() is None


def test_keys_hold_for_a_while_after_the_source_was_heard_from_last(clock: HandClock) -> None:
    table = AccessTable(PEPPER, clock, staleness=900)
    token = issued(table)
    unread = table.stale()
    assert unread is not None
    assert unread.code == "access_unknown"
    table.heard()
    clock.at = 900
    assert table.stale() is None
    assert table.authenticate(token) is not None
    clock.at = 901
    behind = table.stale()
    assert behind is not None
    assert "900 s" in behind.why
    table.heard()
    assert table.stale() is None


def test_a_project_is_known_once_it_was_created(table: AccessTable) -> None:
    assert set(table.projects) == {"default"}
    table.apply(ProjectCreated(), "team")
    assert set(table.projects) == {"default", "team"}


def test_uses_of_keys_are_told_once_in_a_while(table: AccessTable, clock: HandClock) -> None:
    first, second = issued(table), issued(table)
    subject = f"key:{first.split('_')[1]}"
    assert table.take_used(60) == []
    table.authenticate(first)
    table.authenticate("cloche_ab_cd")
    assert table.take_used(60) == [subject]
    table.authenticate(first)
    assert table.take_used(60) == []
    clock.at = 60
    assert table.take_used(60) == []
    table.authenticate(first)
    assert table.take_used(60) == [subject]
    table.untold([subject])
    table.authenticate(second)
    assert len(table.take_used(60)) == 2


def test_an_empty_or_short_pepper_is_refused(clock: HandClock) -> None:
    with pytest.raises(ClocheError) as caught:
        AccessTable(b"short", clock)
    assert caught.value.code == "pepper_missing"


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_is_open_from_its_least_role_up(action: str) -> None:
    order: list[Role] = ["viewer", "submitter", "admin"]
    allowed = [Principal("key:a", ("default",), role).may(action) for role in order]
    least = order.index(ACTIONS[action])
    assert allowed == [index >= least for index in range(3)]


def test_an_action_that_is_not_listed_is_denied_to_everybody() -> None:
    assert not Principal("key:a", ("*",), "admin").may("everything.destroy")


def test_projects_are_compared_by_equality() -> None:
    principal = Principal("key:a", ("team",), "admin")
    assert principal.opens("team")
    assert not principal.opens("team2")
    assert not principal.opens("tea")
    assert Principal("key:b", ("*",), "admin").opens("any")


def test_the_gate_closes_after_too_many_failures_and_opens_again(clock: HandClock) -> None:
    gate = FailureGate(clock.monotonic, limit=3, pause_s=5)
    for _ in range(3):
        assert gate.wait("a") == 0
        gate.failed("a")
    assert gate.wait("a") == 5
    assert gate.wait("b") == 0
    clock.at = 5.1
    assert gate.wait("a") == 0


def test_failures_far_apart_do_not_add_up(clock: HandClock) -> None:
    gate = FailureGate(clock.monotonic, limit=2, window_s=60)
    gate.failed("a")
    clock.at = 61
    gate.failed("a")
    assert gate.wait("a") == 0


def test_the_gate_remembers_a_bounded_number_of_addresses(clock: HandClock) -> None:
    gate = FailureGate(clock.monotonic, limit=1, addresses=2)
    for address in ("a", "b", "c"):
        gate.failed(address)
    assert [gate.wait(address) > 0 for address in ("a", "b", "c")] == [False, True, True]


def test_a_key_may_ask_for_ten_seconds_worth_at_once_and_then_at_its_rate(clock: HandClock) -> None:
    rates = KeyRates(clock.monotonic, 2)
    assert [rates.wait("a") for _ in range(20)] == [0.0] * 20
    assert rates.wait("a") == 0.5
    assert rates.wait("b") == 0
    clock.at = 0.5
    assert rates.wait("a") == 0
    assert rates.wait("a") == 0.5
    clock.at = 1000
    assert [rates.wait("a") for _ in range(21)][-2:] == [0.0, 0.5]


def test_the_rates_remember_a_bounded_number_of_keys(clock: HandClock) -> None:
    rates = KeyRates(clock.monotonic, 0.1, keys=2)
    for subject in ("a", "b", "c"):
        assert rates.wait(subject) == 0
    assert [rates.wait(subject) > 0 for subject in ("c", "b", "a")] == [True, True, False]


async def test_a_token_and_a_project_that_are_on_their_way_are_waited_for(clock: HandClock) -> None:
    table = AccessTable(PEPPER, clock, staleness=900)
    key = issue_key(SystemRandom(), PEPPER)
    token = key.token
    told = ApiKeyIssued(key_id=key.key_id, digest=key.digest, role="admin", projects=("*",))
    assert table.lacks(token)
    waiting = asyncio.create_task(table.catch_up(token, "team"))
    await asyncio.sleep(0)
    table.apply(told)
    await asyncio.sleep(0)
    assert not waiting.done()
    table.apply(ProjectCreated(), "team")
    await waiting
    assert not table.lacks(token, "team")
    assert table.lacks(token, "another")
    assert not any(table.lacks(token, name) for name in ("", "../x", "\xff", "a" * 256))
    assert not table.lacks("no token")
    table.apply(ApiKeyRevoked(key_id=key.key_id))
    assert not table.lacks(token)


@pytest.mark.looptime
async def test_what_does_not_come_is_waited_for_no_longer_than_a_fact_may_take(clock: HandClock) -> None:
    table = AccessTable(PEPPER, clock, staleness=900)
    loop = asyncio.get_running_loop()
    waiting = [asyncio.create_task(table.catch_up(f"cloche_{number}_x")) for number in range(300)]
    await asyncio.sleep(0.01)
    assert sum(task.done() for task in waiting) == 300 - MOST_WAITING
    await asyncio.gather(*waiting)
    assert loop.time() == pytest.approx(ON_ITS_WAY_S, abs=0.02)
    await AccessTable(PEPPER, clock).catch_up("cloche_1_x")
    assert loop.time() == pytest.approx(ON_ITS_WAY_S, abs=0.02)


def test_an_address_that_fails_again_and_again_is_suspect_for_a_while(clock: HandClock) -> None:
    gate = FailureGate(clock.monotonic)
    for _ in range(SUSPECT_AFTER):
        assert not gate.is_suspect("a")
        gate.failed("a")
    assert gate.is_suspect("a")
    assert not gate.is_suspect("b")
    clock.at += 61
    assert not gate.is_suspect("a")
