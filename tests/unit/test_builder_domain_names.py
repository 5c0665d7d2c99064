"""Scopes, keys, ids of builds; requests for builds."""

import pytest

from cloche_builder.domain.names import build_definition, build_key, is_public, scope_of, shown_id, stream_of
from cloche_builder.domain.requests import (
    BuildRequest,
    decide_assign,
    decide_complete,
    decide_fail,
    decide_submit,
    evolve,
)
from cloche_shared.contracts.definition import Definition, PipOptions, PythonSection, WheelRef
from cloche_shared.contracts.facts import BuildSubmitted, ImageEvicted, ImageProvided
from cloche_shared.contracts.references import EnvironmentRef, Problem, References, ResolvedEnvironment
from cloche_shared.errors import Invalid
from cloche_shared.journal.commit import StreamId
from cloche_shared.journal.streams import Decision

DEFAULT = "https://pypi.org/simple"
HASH = "e1:" + "0" * 64
LOCK = "sha256:" + "a" * 64


def definition(*pip: str, index: str | None = None, extra: tuple[str, ...] = ()) -> Definition:
    options = PipOptions(index_url=index, extra_index_urls=extra)
    return Definition(python=PythonSection(pip=pip, pip_options=options), variables={"A": "b"})


@pytest.mark.parametrize(
    ("wanted", "public"),
    [
        (definition("alpha"), True),
        (definition("alpha", index="https://PyPI.org/simple/"), True),
        (definition("alpha ; python_version > '3'"), True),
        (definition("alpha", index="https://corp.example/simple"), False),
        (definition("alpha", extra=("https://corp.example/simple",)), False),
        (definition("alpha", index="https://user:word@pypi.org/simple"), False),
        (definition("alpha @ https://corp.example/alpha-1-py3-none-any.whl"), False),
    ],
)
def test_only_what_comes_from_public_indexes_is_public(wanted: Definition, public: bool) -> None:
    assert is_public(wanted, (DEFAULT,), DEFAULT) is public
    assert scope_of(wanted, "red", (DEFAULT,), DEFAULT) == ("public" if public else "red")


def test_the_index_of_a_package_and_private_wheels_are_looked_at_too() -> None:
    placed = PythonSection(pip=("a",), pip_options=PipOptions(package_indexes={"a": "https://corp.example/simple"}))
    private = PythonSection(wheels=(WheelRef(digest=LOCK, filename="a-1-py3-none-any.whl"),))
    assert not any(is_public(Definition(python=one), (DEFAULT,), DEFAULT) for one in (placed, private))


def test_an_empty_list_shares_nothing() -> None:
    assert scope_of(definition("alpha"), "red", (), DEFAULT) == "red"


def test_a_project_cannot_take_the_name_of_the_public_scope() -> None:
    with pytest.raises(Invalid) as refused:
        scope_of(definition("alpha"), "public", (), DEFAULT)
    assert refused.value.code == "reserved_project"


def test_a_key_holds_hash_target_and_platform() -> None:
    assert build_key(HASH, "process", "linux-x86_64") == f"{'0' * 64}.process.linux-x86_64"
    with pytest.raises(Invalid):
        build_key("e2:" + "0" * 64, "process", "linux-x86_64")


@pytest.mark.parametrize("scope", ["public", "red"])
def test_an_id_names_a_build_of_the_readers_project_or_a_public_one(scope: str) -> None:
    stream = StreamId("build", scope, build_key(HASH, "process", "linux-x86_64"))
    assert stream_of(shown_id(stream), "red") == stream


@pytest.mark.parametrize("text", ["", "x", "0190-req", "private-" + "0" * 64 + ".process.linux-x86_64", "public-../x"])
def test_other_ids_name_no_build(text: str) -> None:
    assert stream_of(text, "red") is None


def test_variables_are_no_part_of_a_build_and_an_open_python_is_filled_in() -> None:
    wanted = build_definition(definition("alpha"), "3.11")
    assert (wanted.variables, wanted.python.version) == ({}, "3.11")
    assert build_definition(definition("alpha"), "").python.version is None


ENVIRONMENT = ResolvedEnvironment(name="env", version="1", definition_hash=HASH, definition=definition("alpha"))
WANTED = BuildSubmitted(references=References(environment=EnvironmentRef(name="env")), refresh=True, at="t0")
PROVIDED = ImageProvided(
    definition_hash=HASH, lock_digest=LOCK, scope="public", target="process", image="", reused=True
)


def apply(state: BuildRequest, decision: Decision) -> BuildRequest:
    for fact in decision.facts:
        state = evolve(state, fact)
    return state


SUBMITTED = apply(BuildRequest(), decide_submit(BuildRequest(), WANTED, "q"))
ASSIGNED = apply(SUBMITTED, decide_assign(SUBMITTED, ENVIRONMENT, "public-x", "public"))


def test_a_request_is_accepted_once() -> None:
    assert (SUBMITTED.stage, SUBMITTED.refresh, SUBMITTED.created_at) == ("submitted", True, "t0")
    again = decide_submit(SUBMITTED, WANTED, "q")
    assert (again.facts, again.json) == ([], {"id": "q"})


def test_a_request_takes_each_answer_once() -> None:
    done = apply(ASSIGNED, decide_complete(ASSIGNED, PROVIDED, "t1"))
    assert (ASSIGNED.build_id, done.stage, done.lock_digest, done.reused, done.ended) == (
        "public-x",
        "completed",
        LOCK,
        True,
        True,
    )
    for late in (
        decide_assign(done, ENVIRONMENT, "y", "public"),
        decide_complete(done, PROVIDED, "t2"),
        decide_fail(done, Problem(code="x", message=""), "t2"),
        decide_complete(SUBMITTED, PROVIDED, "t2"),
        decide_fail(BuildRequest(), Problem(code="x", message=""), "t2"),
    ):
        assert not late.facts


@pytest.mark.parametrize("state", [SUBMITTED, ASSIGNED])
def test_a_refusal_ends_a_request(state: BuildRequest) -> None:
    failed = apply(state, decide_fail(state, Problem(code="environment_not_found", message=""), "t1"))
    assert (failed.stage, failed.ended, failed.ended_at) == ("failed", True, "t1")
    assert evolve(failed, ImageEvicted()) is failed
    assert BuildRequest.model_validate_json(failed.model_dump_json()) == failed
