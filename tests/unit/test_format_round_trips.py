"""What leaves as a file and comes back is the same definition, with the same hash."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloche.formats.azure_v1 import read_azure_v1, write_azure_v1
from cloche.formats.cloche_yaml import json_schema, read_cloche, write_cloche
from cloche.formats.conda_yaml import read_conda, write_conda
from cloche.formats.requirements_txt import read_requirements, write_requirements
from cloche.formats.yaml_text import read_yaml, write_yaml
from cloche_shared.contracts.definition import Definition
from cloche_shared.definitions.rules import Where, findings
from cloche_shared.store.hashing import definition_hash

PLATFORM = "linux-x86_64"
AZURES = "mcr.microsoft.com/azureml/base:1"
DIGEST = "sha256:" + "a" * 64
WORDS = st.text(st.characters(codec="utf-8"), max_size=20)
QUICK = settings(deadline=None, max_examples=50)
NAMES = st.from_regex(re.compile(r"[a-z][a-z0-9]{0,8}", re.ASCII), fullmatch=True).filter(
    lambda name: name not in {"pip", "python"}
)
VERSIONS = st.from_regex(re.compile(r"[1-9]\.[0-9]{1,2}", re.ASCII), fullmatch=True)
PINS = st.tuples(NAMES, st.sampled_from(["==", ">=", "<"]), VERSIONS).map("".join)
INDEXES = st.sampled_from(["https://a.example.org/simple", "https://b.example.org/x"])
VARIABLES = st.dictionaries(
    st.sampled_from(["A", "B_C", "yes"]), WORDS.filter(lambda text: "\0" not in text), max_size=2
)


def section(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=members)


OPTIONS = section(
    index_url=INDEXES,
    extra_index_urls=st.lists(INDEXES, unique=True, max_size=2),
    pre=st.booleans(),
    no_binary=st.lists(NAMES, unique=True, max_size=2),
    only_binary=st.just([":all:"]),
)
PIP = {"version": st.sampled_from(["3.10", "3.12.1"]), "pip": st.lists(PINS, max_size=3), "pip_options": OPTIONS}
CONDA = st.fixed_dictionaries(
    {"packages": st.lists(PINS, min_size=1, max_size=3)},
    optional={"channels": st.lists(st.sampled_from(["conda-forge", "defaults"]), min_size=1, unique=True)},
)
PLAIN = section(python=section(**PIP))
PACKAGES = section(python=section(conda=CONDA, **PIP), variables=VARIABLES)
INDEXED = st.dictionaries(NAMES, INDEXES, min_size=1, max_size=2)
WHOLE = section(
    python=section(
        conda=st.one_of(CONDA, st.just({"base_environment": "base", "packages": []})),
        wheels=st.just([{"digest": DIGEST, "filename": "a-1-py3-none-any.whl"}]),
        **{**PIP, "pip_options": st.one_of(OPTIONS, st.builds(lambda one: {"package_indexes": one}, INDEXED))},
    ),
    docker=st.one_of(
        section(
            base_image=st.sampled_from(["ubuntu:22.04", "mcr.microsoft.com/azureml/base:1"]), enabled=st.booleans()
        ),
        section(dockerfile=st.just("FROM a\nRUN true # 'x'\n"), shm_size=st.sampled_from(["2g", "64m"])),
        section(build_context=st.just({"digest": DIGEST, "dockerfile_path": "x/Dockerfile"})),
        section(
            registry=st.just({"address": "r.example.org", "username_secret": "u", "password_secret": "p"}),
            gpu_support=st.booleans(),
            arguments=st.just({"cpus": "2", "memory": "4g", "ulimits": {"nofile": "1:2"}}),
            platform=st.sampled_from([PLATFORM, "linux-aarch64"]),
        ),
    ),
    spark=section(
        repositories=st.just(["https://repo.example.org"]),
        packages=st.just([{"group": "g", "artifact": "a", "version": "1"}]),
        precache_packages=st.booleans(),
    ),
    databricks=section(
        maven_libraries=st.just([{"coordinates": "g:a:1", "exclusions": ["x:y"]}]),
        pypi_libraries=st.just([{"package": "p", "repo": "https://r.example.org"}]),
        rcran_libraries=st.just([{"package": "q"}]),
        jar_libraries=st.just(["a.jar"]),
        egg_libraries=st.just(["a.egg"]),
    ),
    apt=st.just(["git"]),
    build_variables=VARIABLES,
    variables=VARIABLES,
    inferencing_stack_version=st.just("latest"),
    description=WORDS,
    tags=VARIABLES,
)
OWN = st.one_of(WHOLE, section(python=section(user_managed=st.just(True), interpreter_path=st.just("/opt/python"))))


def definition(members: dict[str, Any]) -> Definition:
    return Definition.model_validate_json(json.dumps(members))


def hash_of(one: Definition) -> str:
    return definition_hash(one, platform=PLATFORM)


@given(OWN)
@QUICK
def test_our_own_document_says_everything(members: dict[str, Any]) -> None:
    one = definition(members)
    back = read_cloche(write_cloche(one, "x").files["cloche.yaml"])
    assert (back.name, back.definition) == ("x", one)


@given(OWN)
@QUICK
def test_a_folder_of_azure_keeps_the_hash(members: dict[str, Any]) -> None:
    one = definition(members)
    back = read_azure_v1(write_azure_v1(one, "x").files)
    assert (back.name, hash_of(back.definition)) == ("x", hash_of(one))
    assert back.definition.variables == one.variables


@given(PACKAGES)
@QUICK
def test_a_conda_file_keeps_the_hash(members: dict[str, Any]) -> None:
    one = definition(members)
    written = write_conda(one, "x")
    back = read_conda(written.files["environment.yml"])
    assert not written.notes
    assert (hash_of(back.definition), back.definition.variables) == (hash_of(one), one.variables)


@given(PLAIN)
@QUICK
def test_a_requirements_file_keeps_the_hash_but_for_the_interpreter(members: dict[str, Any]) -> None:
    one = definition(members)
    written = write_requirements(one)
    back = read_requirements(written.files["requirements.txt"]).definition
    python = back.python.model_copy(update={"version": one.python.version})
    assert hash_of(back.model_copy(update={"python": python})) == hash_of(one)
    assert [note.pointer for note in written.notes] == (["/python/version"] if one.python.version else [])


@given(
    st.recursive(
        st.one_of(WORDS, st.integers(-(10**9), 10**9), st.booleans(), st.none()),
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(WORDS, inner, min_size=1, max_size=3),
        max_leaves=8,
    )
)
@QUICK
def test_what_is_written_as_yaml_is_read_as_it_was(value: Any) -> None:
    assert read_yaml(write_yaml(value)).data == value


@given(WHOLE, st.randoms())
@QUICK
def test_the_order_of_writing_changes_nothing(members: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            keys = random.sample(list(value), len(value))
            return {key: shuffled(value[key], key) for key in keys}
        if isinstance(value, list) and name in {"pip", "packages", "apt", "wheels", "no_binary"}:
            return random.sample(value, len(value))
        return value

    one = definition(members)
    other = definition(shuffled(members) | {"tags": {"other": "words"}, "description": "x", "variables": {"Z": "1"}})
    assert hash_of(one) == hash_of(other)


@given(WHOLE)
@QUICK
def test_what_is_generated_here_has_no_faults_but_what_is_not_available(members: dict[str, Any]) -> None:
    told = findings(definition(members), Where(PLATFORM))
    # an index may be generated for a package that is not asked for
    assert {one.code for one in told if one.severity == "error"} <= {
        "package_index_unused",
        *(one.code for one in told if one.code.endswith("_not_available")),
    }


def test_the_published_schema_names_every_member() -> None:
    assert set(json_schema()["properties"]) == {"$schema", "name", *Definition.model_fields}
    assert json_schema()["additionalProperties"] is False


@pytest.mark.parametrize(
    "text", ["yes", "no", "1.10", "1", "null", "~", "", " x", "x ", "a: b", "a #b", "- a", "'", '"', "\t"]
)
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    assert read_yaml(write_yaml({"a": [text], text or "k": text})).data == {"a": [text], text or "k": text}
