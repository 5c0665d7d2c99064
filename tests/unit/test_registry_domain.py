"""The registry's decisions and states."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cloche_registry.definitions import Recipe, candidate, with_requirements
from cloche_registry.domain import environments, keys, models
from cloche_registry.domain.environments import Environment, EnvironmentVersion
from cloche_registry.domain.keys import Access
from cloche_registry.domain.models import Model, ModelVersion
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import ApiKeyIssued, ApiKeyRevoked, EnvironmentRegistered, ProjectCreated
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.contracts.references import EnvironmentRef, ModelRef
from cloche_shared.errors import ClocheError, Conflict, Invalid, NotFound
from cloche_shared.journal.streams import Decision

RECIPE = Recipe("linux-x86_64", "3.11")
DIGEST = "sha256:" + "a" * 64


def version(text: str = "", **variables: str) -> EnvironmentVersion:
    definition = Definition(python=PythonSection(pip=tuple(text.split())), variables=variables)
    return candidate(definition, RECIPE, created_at="2026-01-01T00:00:00Z", created_by="key:a")


def after(state: Environment, decision: Decision) -> Environment:
    for fact in decision.facts:
        state = environments.evolve(state, fact)
    return state


def registered(*texts: str) -> Environment:
    state = Environment()
    for text in texts:
        state = after(state, environments.decide_register(state, "sk", version(text)))
    return state


def code_of(error: pytest.ExceptionInfo[ClocheError]) -> str:
    return error.value.code


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_versions_are_gapless_and_a_new_one_always_differs_from_the_one_before(texts: list[str]) -> None:
    state, numbers = Environment(), []
    for text in texts:
        decision = environments.decide_register(state, "sk", version(text))
        numbers += [fact.environment_version for fact in decision.facts if isinstance(fact, EnvironmentRegistered)]
        state = after(state, decision)
        assert state.versions[-1].definition.python.pip == (text,)
    changes = sum(1 for before, now in zip(["", *texts], texts, strict=False) if before != now)
    assert numbers == list(range(1, changes + 1))
    assert state.changes == changes


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=10), st.booleans())
def test_states_survive_json(texts: list[str], archived: bool) -> None:
    state = registered(*texts)
    if archived:
        state = after(state, environments.decide_archive(state, "sk", archived=True))
    state = after(state, environments.decide_label(state, "sk", "good", "1"))
    assert_survives(state)
    assert Environment.model_validate_json(state.model_dump_json()).versions[0].same_as(version(texts[0]))


def assert_survives(state: BaseModel) -> None:
    assert type(state).model_validate_json(state.model_dump_json()) == state


def test_the_same_text_under_another_default_interpreter_is_another_version() -> None:
    definition = Definition(python=PythonSection(pip=("a",)))
    first = candidate(definition, RECIPE, created_at="", created_by="")
    second = candidate(definition, Recipe("linux-x86_64", "3.12"), created_at="", created_by="")
    assert not first.same_as(second)
    assert (first.definition.python.version, first.effective.python.version) == (None, "3.11")


def test_a_named_interpreter_hashes_like_the_same_default() -> None:
    named = Definition(python=PythonSection(version="3.11", pip=("a",)))
    first = candidate(named, Recipe("linux-x86_64", "3.12"), created_at="", created_by="")
    assert first.definition_hash == version("a").definition_hash
    assert first.effective is first.definition


def test_an_unchanged_definition_is_answered_with_its_version() -> None:
    state = registered("a", "b")
    decision = environments.decide_register(state, "sk", version("b"))
    assert (list(decision.facts), decision.json) == ([], {"version": 2, "registered": False})


def test_nothing_is_registered_under_a_deleted_name() -> None:
    state = registered("a")
    state = after(state, environments.decide_delete(state, "sk"))
    with pytest.raises(Conflict) as refused:
        environments.decide_register(state, "sk", version("a"))
    assert code_of(refused) == "environment_deleted"
    for decide in (
        lambda: environments.decide_delete(state, "sk"),
        lambda: environments.decide_archive(state, "sk", archived=True),
        lambda: environments.decide_label(state, "sk", "x", "1"),
        lambda: environments.resolve(state, EnvironmentRef(name="sk")),
    ):
        with pytest.raises(NotFound) as gone:
            decide()
        assert code_of(gone) == "environment_deleted"


@pytest.mark.parametrize(
    ("wanted", "label", "number"), [("1", None, 1), (None, None, 2), (None, "latest", 2), (None, "good", 1)]
)
def test_a_reference_means_one_version(wanted: str | None, label: str | None, number: int) -> None:
    state = registered("a", "b")
    state = after(state, environments.decide_label(state, "sk", "good", "1"))
    found = environments.resolve(state, EnvironmentRef(name="sk", version=wanted, label=label))
    assert (found.version, found.registered) == (str(number), False)
    assert found.definition.python.version == "3.11"


@pytest.mark.parametrize(
    ("ref", "code"),
    [
        (EnvironmentRef(name="sk", version="3"), "environment_version_not_found"),
        (EnvironmentRef(name="sk", label="x"), "label_not_found"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(ref: EnvironmentRef, code: str) -> None:
    with pytest.raises(NotFound) as refused:
        environments.resolve(registered("a", "b"), ref)
    assert code_of(refused) == code


def test_what_was_never_registered_is_not_found() -> None:
    with pytest.raises(NotFound) as refused:
        environments.resolve(Environment(), EnvironmentRef(name="sk"))
    assert code_of(refused) == "environment_not_found"


def test_labels_move_and_go() -> None:
    state = registered("a", "b")
    state = after(state, environments.decide_label(state, "sk", "good", "1"))
    assert not environments.decide_label(state, "sk", "good", "1").facts
    state = after(state, environments.decide_label(state, "sk", "good", "2"))
    assert state.labels == {"good": 2}
    state = after(state, environments.decide_unlabel(state, "sk", "good"))
    assert state.labels == {}
    with pytest.raises(NotFound):
        environments.decide_unlabel(state, "sk", "good")
    with pytest.raises(Invalid) as reserved:
        environments.decide_label(state, "sk", "latest", "1")
    assert code_of(reserved) == "label_reserved"


def test_archiving_twice_records_once() -> None:
    state = registered("a")
    assert not environments.decide_archive(state, "sk", archived=False).facts
    state = after(state, environments.decide_archive(state, "sk", archived=True))
    assert state.archived
    assert not environments.decide_archive(state, "sk", archived=True).facts
    assert not after(state, environments.decide_archive(state, "sk", archived=False)).archived


def test_an_inline_definition_is_recorded_only_if_it_is_new() -> None:
    state = registered("a")
    facts, found = environments.decide_inline(state, "sk", version("a"))
    assert (facts, found.version, found.registered) == ([], "1", False)
    facts, found = environments.decide_inline(state, "sk", version("b"))
    assert (len(facts), found.version, found.registered) == (1, "2", True)


def test_unknown_facts_change_nothing_but_the_position() -> None:
    assert environments.evolve(Environment(), ProjectCreated()) == Environment(changes=1)
    assert models.evolve(Model(), ProjectCreated()) == Model(changes=1)
    assert keys.evolve(Access(), Fact()) == Access()


# --- requirements


def test_requirements_fill_a_definition_that_has_no_packages() -> None:
    base = Definition(python=PythonSection(version="3.12"), variables={"A": "1"})
    made = with_requirements(base, "B\nA==1\n--pre\n")
    assert (made.python.version, made.python.pip, made.variables) == ("3.12", ("b", "a==1"), {"A": "1"})
    assert made.python.pip_options.pre


def test_more_requirements_than_a_definition_holds_are_refused() -> None:
    with pytest.raises(Invalid) as refused:
        with_requirements(None, "".join(f"p{number}\n" for number in range(2001)))
    assert code_of(refused) == "invalid_field"


# --- models


def tree(*paths: str) -> Manifest:
    return Manifest(files=tuple(FileEntry(path=path, digest=DIGEST, size=1) for path in paths))


def test_each_registration_of_a_model_is_a_version() -> None:
    state = Model()
    for number in (1, 2):
        decision = models.decide_register(state, "m", ModelVersion(manifest=DIGEST, size=1, tags={"a": "b"}))
        assert decision.json == {"version": number}
        state = models.evolve(state, decision.facts[0])
    assert models.resolve(state, ModelRef(name="m")).version == "2"
    assert models.resolve(state, ModelRef(name="m", version="1")).manifest == DIGEST
    assert state.versions[0].tags == {"a": "b"}
    assert_survives(state)
    with pytest.raises(NotFound) as refused:
        models.resolve(state, ModelRef(name="m", version="3"))
    assert code_of(refused) == "model_version_not_found"


def test_a_deleted_model_stays_deleted() -> None:
    state = models.evolve(Model(), models.decide_register(Model(), "m", ModelVersion(manifest=DIGEST, size=1)).facts[0])
    state = models.evolve(state, models.decide_delete(state, "m").facts[0])
    with pytest.raises(Conflict):
        models.decide_register(state, "m", ModelVersion(manifest=DIGEST, size=1))
    with pytest.raises(NotFound) as gone:
        models.decide_delete(state, "m")
    assert code_of(gone) == "model_deleted"
    with pytest.raises(NotFound) as unknown:
        models.find_version("m", Model(), None)
    assert code_of(unknown) == "model_not_found"


@pytest.mark.parametrize(("path", "found"), [("o/m.pkl", ["m.pkl"]), ("o", ["d/x", "m.pkl"]), ("o/d", ["x"])])
def test_a_path_names_a_file_or_a_folder(path: str, found: list[str]) -> None:
    assert [entry.path for entry in models.select(tree("o/m.pkl", "o/d/x", "ox"), path, "The run").files] == found


def test_a_path_that_is_not_there_lists_what_is() -> None:
    with pytest.raises(NotFound) as refused:
        models.select(tree(*(f"o/{number:03}" for number in range(60))), "x", "The run r")
    assert (code_of(refused), refused.value.extra["count"]) == ("model_path_not_found", 60)
    assert "and 10 more" in refused.value.why
    with pytest.raises(NotFound) as empty:
        models.select(tree(), "x", "The run r")
    assert empty.value.why == "It has no files."


def test_a_model_has_files() -> None:
    models.refuse_empty(tree("a"))
    with pytest.raises(Invalid):
        models.refuse_empty(tree())
    assert models.files_missing([DIGEST] * 200).extra == {"missing": [DIGEST] * 100, "count": 200}


# --- keys


def key(key_id: str = "k", digest: str = "d") -> ApiKeyIssued:
    return ApiKeyIssued(key_id=key_id, digest=digest, role="admin", projects=("*",))


def evolved(state: Access, decision: Decision) -> Access:
    for fact in decision.facts:
        state = keys.evolve(state, fact)
    return state


def test_the_first_key_makes_the_project_and_no_key_is_issued_twice() -> None:
    first = keys.decide_bootstrap(Access(), key())
    assert [type(fact) for fact in first.facts] == [ProjectCreated, ApiKeyIssued]
    state = evolved(Access(), first)
    assert not keys.decide_bootstrap(state, key()).facts
    assert len(keys.decide_bootstrap(state, key("other")).facts) == 1
    assert_survives(state)
    with pytest.raises(Conflict) as taken:
        keys.decide_bootstrap(state, key(digest="x"))
    assert code_of(taken) == "key_id_taken"


def test_a_revoked_key_is_not_issued_again() -> None:
    state = evolved(Access(), keys.decide_bootstrap(Access(), key()))
    with pytest.raises(NotFound) as unknown:
        keys.decide_revoke(state, ApiKeyRevoked(key_id="unknown"))
    assert code_of(unknown) == "token_not_found"
    decision = keys.decide_revoke(state, ApiKeyRevoked(key_id="k"))
    assert decision.facts == [ApiKeyRevoked(key_id="k")]
    state = evolved(state, decision)
    assert not keys.decide_revoke(state, ApiKeyRevoked(key_id="k")).facts
    assert not keys.decide_bootstrap(state, key()).facts


def test_a_new_bootstrap_key_revokes_the_former_one() -> None:
    first = key().model_copy(update={"bootstrap": True})
    state = evolved(Access(), keys.decide_bootstrap(Access(), first))
    second = key("other").model_copy(update={"bootstrap": True})
    state = evolved(state, keys.decide_bootstrap(state, second))
    assert list(state.revoked) == [first.key_id]
    assert not keys.decide_bootstrap(state, second).facts
    assert list(evolved(state, keys.decide_bootstrap(state, key("third"))).revoked) == [first.key_id]
