"""Refresh, drift and explain: what they say, and that the latter two change nothing."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from cloche_builder.domain.builds import Build, Claim, Waiter
from cloche_builder.domain.explaining import Subject, explain
from cloche_builder.domain.names import own_reason
from cloche_shared.adapters.memory_resolver import Package
from cloche_shared.contracts.definition import CondaSection, Definition, PipOptions, PythonSection, WheelRef
from cloche_shared.contracts.references import Problem
from cloche_shared.lifecycle import Lifecycle
from tests.unit.test_builder_api import INLINE, World

INDEX = "https://pypi.org/simple"
HASH = "e1:" + "a" * 64
LOCK = "sha256:" + "b" * 64
WAITER = Waiter(request_id="r", reply_to="run/red/1", project="red", correlation="c")


@pytest.fixture
async def builder() -> AsyncIterator[World]:
    world = World()
    async with Lifecycle() as life:
        await world.builder.start(life)
        life.spawn("registry", world.registry())
        yield world
        assert not life.stopping, "a task died"


async def ask(world: World, **wish: object) -> dict[str, Any]:
    headers = {"prefer": "wait=20"}
    answer = await world.client.post("/builds", json={"environment": INLINE, **wish}, headers=headers)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def changes(world: World, build_id: str) -> dict[str, Any]:
    answer = await world.client.get(f"/builds/{build_id}/changes")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def builds(world: World, **query: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await world.client.get("/builds", params=query)).json()["items"]
    return items


async def test_a_refresh_makes_another_lock_says_what_moved_and_keeps_the_old_one(builder: World) -> None:
    first = await ask(builder)
    builder.resolver.packages.append(Package("alpha", "2.0"))
    second = await ask(builder, refresh=True)
    told = await changes(builder, second["id"])
    assert (told["before"]["digest"], told["after"]["digest"]) == (first["lock_digest"], second["lock_digest"])
    assert told["packages"] == [{"kind": "pip", "name": "alpha", "before": "1.0", "after": "2.0"}]
    lock = f"/builds/{second['id']}/lock"
    texts = [(await builder.client.get(lock, params=one)).text for one in ({}, {"digest": first["lock_digest"]})]
    assert ['version = "2.0"' in text for text in texts] == [True, False]
    assert second["locks"] == [first["lock_digest"], second["lock_digest"]]
    assert (await changes(builder, second["build_id"]))["packages"] == told["packages"]


async def test_a_refresh_that_moves_nothing_says_so(builder: World) -> None:
    first = await ask(builder)
    second = await ask(builder, refresh=True)
    assert (second["lock_digest"], second["reused"]) == (first["lock_digest"], False)
    assert (await changes(builder, second["id"]))["packages"] == []


async def test_a_drift_says_what_a_refresh_would_change_and_changes_nothing(builder: World) -> None:
    first = await ask(builder)
    builder.resolver.packages.append(Package("alpha", "2.0"))
    listed = await builds(builder)
    drift = await ask(builder, purpose="drift")
    told = await changes(builder, drift["id"])
    assert told["packages"] == [{"kind": "pip", "name": "alpha", "before": "1.0", "after": "2.0"}]
    assert (told["before"]["digest"], told["after"]["digest"]) == (first["lock_digest"], "")
    again = await ask(builder)
    assert (again["reused"], again["lock_digest"]) == (True, first["lock_digest"])
    assert await builds(builder) == listed
    assert (await builder.client.get(f"/builds/{drift['id']}/lock")).json()["code"] == "lock_not_found"
    log = (await builder.client.get(f"/builds/{drift['id']}/log")).text
    assert "nothing was changed" in log


async def test_a_drift_of_what_was_never_built_shows_the_first_lock(builder: World) -> None:
    told = await changes(builder, (await ask(builder, purpose="drift"))["id"])
    assert told["before"] == {"digest": "", "python": ""}
    assert [(one["before"], one["after"]) for one in told["packages"]] == [(None, "1.0")]
    assert (await ask(builder))["reused"] is False


async def test_every_drift_looks_anew(builder: World) -> None:
    await ask(builder)
    before = await changes(builder, (await ask(builder, purpose="drift"))["id"])
    builder.resolver.packages.append(Package("alpha", "3.0"))
    after = await changes(builder, (await ask(builder, purpose="drift"))["id"])
    assert (len(before["packages"]), len(after["packages"])) == (0, 1)


async def test_a_drift_that_cannot_be_solved_fails_as_a_build_would(builder: World) -> None:
    wanted = {"name": "quick", "definition": {"python": {"pip": ["gamma"]}}}
    drift = await ask(builder, purpose="drift", environment=wanted)
    assert (drift["status"], drift["problem"]["code"]) == ("Failed", "package_not_found")


async def test_explain_says_what_a_build_would_do_and_builds_nothing(builder: World) -> None:
    unbuilt = await ask(builder, purpose="explain")
    assert (unbuilt["status"], unbuilt["explanation"]["action"]) == ("Completed", "build")
    assert unbuilt["explanation"]["steps"][0] == f"choose packages of pip (alpha) from {INDEX}"
    assert await builds(builder) == []
    made = await ask(builder)
    built = (await ask(builder, purpose="explain"))["explanation"]
    assert (built["action"], built["lock_digest"], built["artefacts"]) == ("reuse", made["lock_digest"], 1)
    assert built["build_id"] == made["build_id"]


async def test_an_explanation_opens_no_build_that_the_project_never_asked_for(builder: World) -> None:
    await ask(builder)
    stranger = builder.client_of("blue")
    body = {"environment": INLINE, "purpose": "explain"}
    shown = (await stranger.post("/builds", json=body, headers={"prefer": "wait=20"})).json()
    assert shown["explanation"]["action"] == "reuse"
    paths = ("lock", "changes", "packages")
    answers = [await stranger.get(f"/builds/{shown['id']}/{path}") for path in paths]
    assert {answer.status_code for answer in answers} == {404}
    assert (await stranger.get(f"/builds/{shown['id']}/log")).text == ""


async def test_a_refresh_is_no_drift(builder: World) -> None:
    body = {"environment": INLINE, "purpose": "drift", "refresh": True}
    answer = await builder.client.post("/builds", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")


async def test_builds_are_found_by_the_hash_of_their_definition(builder: World) -> None:
    made = await ask(builder)
    assert [one["id"] for one in await builds(builder, definition_hash=made["definition_hash"])] == [made["build_id"]]
    assert await builds(builder, definition_hash=HASH) == []
    stranger = builder.client_of("blue")
    found = (await stranger.get("/builds", params={"definition_hash": made["definition_hash"]})).json()["items"]
    assert found == []


async def test_the_packages_of_a_lock_are_listed(builder: World) -> None:
    made = await ask(builder)
    shown = (await builder.client.get(f"/builds/{made['id']}/packages")).json()
    assert [(one["kind"], one["name"], one["version"]) for one in shown["packages"]] == [("pip", "alpha", "1.0")]
    foreign = await builder.client.get(f"/builds/{made['id']}/packages", params={"digest": LOCK})
    assert (foreign.status_code, foreign.json()["code"]) == (404, "lock_not_found")


# --- decisions


def subject(build: Build, *, missing: int | None = 0, own: str = "", definition: Definition | None = None) -> Subject:
    return Subject(build, "project-x", HASH, definition or Definition(), own, INDEX, missing)


BUILT = Build(lock_digest=LOCK, last="built", artefacts=3, bytes=100)
FAILED = Build(last="failed", problem=Problem(code="unreachable", message="The index did not answer."))


@pytest.mark.parametrize(
    ("build", "missing", "action", "reason"),
    [
        (Build(), 0, "build", "never_built"),
        (BUILT, 0, "reuse", "built"),
        (BUILT, 2, "restore", "files_missing"),
        (BUILT.model_copy(update={"evicted": True}), 0, "restore", "files_missing"),
        (BUILT, None, "build", "lock_missing"),
        (FAILED, 0, "build", "failed_before"),
        (Build(waiters=(WAITER,)), 0, "join", "in_progress"),
        (FAILED.model_copy(update={"claim": Claim(builder="a", attempt=1, solves=True)}), 0, "join", "in_progress"),
        (BUILT.model_copy(update={"waiters": (WAITER,)}), 0, "reuse", "built"),
    ],
)
def test_what_is_known_of_a_build_decides_what_would_be_done(
    build: Build, missing: int | None, action: str, reason: str
) -> None:
    found = explain(subject(build, missing=missing))
    assert (found.action, found.reason) == (action, reason)
    assert bool(found.steps) == (action == "build")


def test_the_steps_name_sources_without_credentials() -> None:
    python = PythonSection(
        pip=("alpha==1.0 --hash=sha256:" + "0" * 64, *(f"p{number}" for number in range(5))),
        pip_options=PipOptions(index_url="https://user:word@corp.example/simple"),
        conda=CondaSection(packages=("numpy==1.26",), channels=("conda-forge", "bioconda")),
        wheels=(WheelRef(digest=LOCK, filename="own-1.0-py3-none-any.whl"),),
    )
    found = explain(subject(Build(), definition=Definition(python=python), own="it has private wheels"))
    assert found.steps[:3] == (
        "choose conda packages (numpy==1.26) from conda-forge, bioconda",
        "choose packages of pip (alpha==1.0, p0, p1, p2 and 2 more) from https://corp.example/simple",
        "add private wheels (own-1.0-py3-none-any.whl)",
    )
    assert "word" not in found.model_dump_json()
    assert (found.shared, "private wheels" in found.scope_text) == (False, True)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (PythonSection(), ""),
        (PythonSection(pip=("x @ https://a.example/x-1-py3-none-any.whl",)), "address"),
        (PythonSection(conda=CondaSection(packages=("x",), channels=("corp",))), "channel corp"),
        (PythonSection(pip_options=PipOptions(extra_index_urls=("https://a.example/s",))), "index https://a.example/s"),
        (PythonSection(pip_options=PipOptions(index_url="https://u:secret@pypi.org/simple")), "with credentials"),
        (PythonSection(wheels=(WheelRef(digest=LOCK, filename="a-1-py3-none-any.whl"),)), "private wheels"),
    ],
)
def test_why_a_build_is_a_projects_alone_is_said_without_secrets(section: PythonSection, reason: str) -> None:
    found = own_reason(Definition(python=section), (INDEX,), INDEX, ("conda-forge",))
    assert (reason in found) if reason else not found
    assert "secret" not in found


def test_a_refusal_is_no_lasting_obstacle_to_an_explanation() -> None:
    waiting = FAILED.model_copy(update={"not_before": datetime(2099, 1, 1, tzinfo=UTC).isoformat()})
    assert explain(subject(waiting)).action == "build"
