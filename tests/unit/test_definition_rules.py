"""What a definition may say, what is refused and with which code, and that nothing is accepted and ignored."""

import ast
import json
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from cloche_shared.contracts.definition import Definition
from cloche_shared.definitions import codes
from cloche_shared.definitions.effects import ATTRIBUTES, REASONS, refusals
from cloche_shared.definitions.rules import Where, check_name, checked, findings
from cloche_shared.errors import Invalid
from cloche_shared.store.hashing import definition_hash

ROOT = Path(__file__).parent.parent.parent
PLATFORM = "linux-x86_64"
WHERE = Where(PLATFORM)
DIGEST = "sha256:" + "a" * 64


def definition(**members: Any) -> Definition:
    return Definition.model_validate_json(json.dumps(members))


def found(one: Definition) -> set[tuple[str, str]]:
    return {(finding.pointer, finding.code) for finding in findings(one, WHERE)}


def leaves(model: type[BaseModel], above: str = "") -> set[str]:
    """Return the pointers of a model's attributes; sections are gone into, lists and maps are not."""
    pointers: set[str] = set()
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *(() if get_origin(field.annotation) is tuple else get_args(field.annotation))]
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        here = f"{above}/{name}"
        whole = not sections or sections[0].__name__ == "BuildContext"
        pointers |= {here} if whole else leaves(sections[0], here)
    return pointers


def test_the_table_has_every_attribute_and_no_other() -> None:
    assert set(ATTRIBUTES) == leaves(Definition)


def test_every_attribute_has_a_test_of_its_effect_or_a_code() -> None:
    for pointer, attribute in ATTRIBUTES.items():
        assert bool(attribute.test) != bool(attribute.code), pointer
        if attribute.code:
            assert attribute.code in REASONS, pointer
            continue
        file, _, name = attribute.test.partition("::")
        functions = {getattr(node, "name", "") for node in ast.walk(ast.parse((ROOT / file).read_text()))}
        assert name in functions, pointer


SAID: dict[str, Any] = {
    "/python/pip_options/package_indexes": {"torch": "https://download.example.org/whl"},
    "/python/conda/packages": ["numpy"],
    "/python/conda/channels": ["defaults"],
    "/python/conda/base_environment": "base",
    "/python/wheels": [{"digest": DIGEST, "filename": "a-1-py3-none-any.whl"}],
    "/python/user_managed": True,
    "/python/interpreter_path": "/opt/python/bin/python",
    "/docker/enabled": True,
    "/docker/base_image": "ubuntu:22.04",
    "/docker/dockerfile": "FROM ubuntu:22.04\n",
    "/docker/build_context": {"digest": DIGEST},
    "/docker/registry/address": "registry.example.org",
    "/docker/registry/username_secret": "user",
    "/docker/registry/password_secret": "password",
    "/docker/gpu_support": True,
    "/docker/shm_size": "2g",
    "/docker/arguments/cpus": "2",
    "/docker/arguments/memory": "4g",
    "/docker/arguments/ulimits": {"nofile": "1024:4096"},
    "/docker/platform": "linux-aarch64",
    "/spark/repositories": ["https://repo.example.org/maven"],
    "/spark/packages": [{"group": "com.example", "artifact": "lib", "version": "1.0"}],
    "/spark/precache_packages": False,
    "/databricks/maven_libraries": [{"coordinates": "com.example:lib:1"}],
    "/databricks/pypi_libraries": [{"package": "numpy"}],
    "/databricks/rcran_libraries": [{"package": "ggplot2"}],
    "/databricks/jar_libraries": ["lib.jar"],
    "/databricks/egg_libraries": ["lib.egg"],
    "/apt": ["git"],
    "/build_variables": {"CFLAGS": "-O2"},
    "/inferencing_stack_version": "latest",
    "/python/version": "3.12",
    "/python/pip": ["numpy==2.1.3"],
    "/python/pip_options/index_url": "https://index.example.org/simple",
    "/python/pip_options/extra_index_urls": ["https://index.example.org/simple"],
    "/python/pip_options/pre": True,
    "/python/pip_options/no_binary": ["numpy"],
    "/python/pip_options/only_binary": [":all:"],
    "/python/pip_options/require_hashes": True,
    "/variables": {"A": "1"},
    "/description": "words",
    "/tags": {"team": "a"},
}
"""A value other than the default for each attribute."""


def saying(pointer: str) -> Definition:
    """Return a definition that says one thing, and what that needs to be valid."""
    document: dict[str, Any] = {"docker": {"registry": {"address": "r.example.org"}}} if "/registry" in pointer else {}
    if pointer == "/python/interpreter_path":
        document = {"python": {"user_managed": True}}
    place = document
    *sections, name = pointer[1:].split("/")
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = SAID[pointer]
    return definition(**document)


@pytest.mark.parametrize("pointer", ATTRIBUTES)
def test_what_cannot_take_effect_is_refused_with_its_code_and_pointer(pointer: str) -> None:
    refused = {(one.pointer, one.code) for one in refusals(saying(pointer), PLATFORM)}
    code = ATTRIBUTES[pointer].code or ("platform_not_available" if pointer == "/docker/platform" else "")
    assert ((pointer, code) in refused) is bool(code)
    if code:
        with pytest.raises(Invalid) as caught:
            checked(saying(pointer), WHERE)
        assert pointer in {one.pointer for one in caught.value.violations}
        assert caught.value.todo
    else:
        assert not refused


@pytest.mark.parametrize("pointer", ATTRIBUTES)
def test_the_hash_holds_what_the_table_says(pointer: str) -> None:
    one = saying(pointer)
    base = saying("/docker/registry/address") if "_secret" in pointer else Definition()
    if "_secret" in pointer:
        assert base.docker is not None
        base = definition(docker={"registry": {"address": "r.example.org"}})
    changed = definition_hash(one, platform=PLATFORM) != definition_hash(base, platform=PLATFORM)
    assert changed is ATTRIBUTES[pointer].hashed or pointer == "/docker/platform"


def test_the_servers_own_platform_may_be_named() -> None:
    named = definition(docker={"platform": PLATFORM})
    assert checked(named, WHERE) == named
    assert definition_hash(named, platform=PLATFORM) == definition_hash(Definition(), platform=PLATFORM)
    assert definition_hash(named, platform=PLATFORM) == definition_hash(named, platform="linux-aarch64")


def test_tags_make_a_version_but_not_another_hash() -> None:
    tagged = definition(tags={"team": "a"}, description="words")
    assert checked(tagged, WHERE) == tagged != Definition()
    assert definition_hash(tagged, platform=PLATFORM) == definition_hash(Definition(), platform=PLATFORM)


def test_sections_that_say_nothing_are_left_out() -> None:
    silent = definition(docker={}, spark={}, databricks={}, python={"conda": {}})
    assert checked(silent, WHERE) == Definition()


def test_json_has_only_what_is_said() -> None:
    assert Definition().model_dump(mode="json").keys() == {"python", "variables"}


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"python": {"user_managed": True, "pip": ["a"]}}, "/python/user_managed", "user_managed_packages"),
        ({"python": {"interpreter_path": "/usr/bin/python3"}}, "/python/interpreter_path", "interpreter_unused"),
        ({"python": {"user_managed": True, "interpreter_path": "-c"}}, "/python/interpreter_path", "invalid_value"),
        ({"python": {"user_managed": True, "interpreter_path": "a;b"}}, "/python/interpreter_path", "invalid_value"),
        ({"python": {"conda": {"packages": ["a b c d"]}}}, "/python/conda/packages/0", "invalid_conda_spec"),
        ({"python": {"conda": {"channels": ["file:///etc"]}}}, "/python/conda/channels/0", "invalid_channel"),
        ({"python": {"conda": {"packages": ["a"], "channels": []}}}, "/python/conda/channels", "channels_missing"),
        ({"python": {"conda": {"channels": ["defaults"]}}}, "/python/conda/channels", "channels_unused"),
        ({"python": {"conda": {"packages": ["python=3.11"]}}}, "/python/conda/packages/0", "python_misplaced"),
        (
            {"python": {"version": "3.11", "conda": {"packages": ["a", "python>=3.9"]}}},
            "/python/conda/packages/1",
            "python_twice",
        ),
        (
            {"python": {"pip_options": {"package_indexes": {"a": "https://u:p@example.org"}}}},
            "/python/pip_options/package_indexes/a",
            "credentials_in_url",
        ),
        (
            {"python": {"wheels": [{"digest": DIGEST, "filename": "../a.whl"}]}},
            "/python/wheels/0/filename",
            "invalid_wheel",
        ),
        (
            {"docker": {"base_image": "a:1", "dockerfile": "FROM a"}},
            "/docker/dockerfile",
            "docker_several",
        ),
        ({"docker": {"enabled": True}, "python": {"user_managed": True}}, "/docker", "docker_image_missing"),
        ({"docker": {"base_image": "UPPER case"}}, "/docker/base_image", "invalid_image"),
        ({"docker": {"base_image": "$(id)"}}, "/docker/base_image", "invalid_image"),
        (
            {"docker": {"build_context": {"digest": DIGEST, "dockerfile_path": "../x"}}},
            "/docker/build_context/dockerfile_path",
            "unsafe_path",
        ),
        ({"docker": {"dockerfile": "FROM a\0"}}, "/docker/dockerfile", "invalid_value"),
        ({"docker": {"registry": {"address": "https://x"}}}, "/docker/registry/address", "invalid_registry"),
        (
            {"docker": {"registry": {"address": "r.example.org", "username_secret": "u"}}},
            "/docker/registry",
            "registry_credentials",
        ),
        (
            {"docker": {"arguments": {"ulimits": {"rtprio": "9"}}}},
            "/docker/arguments/ulimits/rtprio",
            "argument_not_allowed",
        ),
        ({"apt": ["git && rm"]}, "/apt/0", "invalid_package"),
        ({"apt": ["-o=x"]}, "/apt/0", "invalid_package"),
        (
            {"spark": {"packages": [{"group": "a b", "artifact": "c", "version": "1"}]}},
            "/spark/packages/0/group",
            "invalid_package",
        ),
        ({"build_variables": {"UV_INDEX": "x"}}, "/build_variables/UV_INDEX", "reserved_variable"),
        ({"build_variables": {"https_proxy": "x"}}, "/build_variables/https_proxy", "reserved_variable"),
        (
            {"python": {"pip": ["b"], "pip_options": {"package_indexes": {"A": "https://example.org"}}}},
            "/python/pip_options/package_indexes/a",
            "package_index_unused",
        ),
        (
            {"python": {"pip": ["a>1"], "pip_options": {"package_indexes": {"a": "http://169.254.169.254/x"}}}},
            "/python/pip_options/package_indexes/a",
            "index_not_allowed",
        ),
        ({"build_variables": {"LD_PRELOAD": "x"}}, "/build_variables/LD_PRELOAD", "reserved_variable"),
        ({"variables": {"LD_PRELOAD": "x"}}, "/variables/LD_PRELOAD", "reserved_variable"),
        ({"inferencing_stack_version": "7"}, "/inferencing_stack_version", "invalid_field"),
        ({"python": {"pip": ["numpy", "-e ."]}}, "/python/pip/1", "requirement_option"),
        (
            {"python": {"pip_options": {"index_url": "https://u:p@example.org"}}},
            "/python/pip_options/index_url",
            "credentials_in_url",
        ),
    ],
)
def test_each_fault_has_its_code_and_pointer(members: dict[str, Any], pointer: str, code: str) -> None:
    one = definition(**members)
    assert (pointer, code) in found(one)
    assert code in codes.ERRORS
    with pytest.raises(Invalid):
        checked(one, WHERE)


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({}, "/python/version", "python_open"),
        ({"python": {"version": "3.7"}}, "/python/version", "python_unsupported"),
        ({"python": {"pip": ["a==1", "b>=1"]}}, "/python/pip/1", "unpinned"),
        ({"python": {"conda": {"packages": ["a==1", "b=1"]}}}, "/python/conda/packages/1", "unpinned"),
        ({"docker": {"base_image": "ubuntu"}}, "/docker/base_image", "image_moves"),
        ({"docker": {"base_image": "a/b:latest"}}, "/docker/base_image", "image_moves"),
        (
            {"docker": {"base_image": "mcr.microsoft.com/azureml/base:intelmpi2018.3-ubuntu16.04"}},
            "/docker/base_image",
            "image_retired",
        ),
    ],
)
def test_what_may_surprise_is_a_warning(members: dict[str, Any], pointer: str, code: str) -> None:
    warned = {(one.pointer, one.code) for one in findings(definition(**members), WHERE) if one.severity == "warning"}
    assert (pointer, code) in warned
    assert code in codes.WARNINGS


def test_everything_pinned_gives_nothing_to_say() -> None:
    lines = ["a==1", "b===1", "c @ https://files.example.org/c-1-py3-none-any.whl", "d==1; python_version < '3.12'"]
    assert findings(definition(python={"version": "3.11", "pip": lines}), WHERE) == []


def test_all_faults_are_told_at_once_and_each_once() -> None:
    one = definition(
        variables={"LD_PRELOAD": "x"},
        python={"pip": ["-r x", "good"], "pip_options": {"index_url": "ftp://x".replace("ftp", "http") + ":0"}},
        apt=["A"],
    )
    told = [(finding.pointer, finding.code) for finding in findings(one, WHERE) if finding.severity == "error"]
    assert len(told) == len(set(told))
    assert {code for _, code in told} == {
        "reserved_variable",
        "requirement_option",
        "invalid_index",
        "invalid_package",
        "apt_not_available",
    }


@pytest.mark.parametrize("name", ["Cloche-Minimal", "AzureML-Tutorial", "Microsoft-x"])
def test_names_of_curated_environments_are_reserved(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_name(name)
    assert caught.value.code == "reserved_name"


def test_other_names_are_free() -> None:
    check_name("cloche-default")
    check_name("azureml")


def test_the_index_of_a_package_is_one_that_the_operator_allows() -> None:
    options = {"package_indexes": {"a": "https://two.example.org/simple"}}
    wanted = definition(python={"pip": ["A==1.0"], "pip_options": options})
    with pytest.raises(Invalid) as refused:
        checked(wanted, Where(PLATFORM, ("https://one.example.org/simple",)))
    assert refused.value.code == "index_not_allowed"
    assert checked(wanted, Where(PLATFORM, ("https://two.example.org/simple",))).python.pip == ("a==1.0",)


@pytest.mark.parametrize("name", ["CFLAGS", "CC", "MAKEFLAGS", "SETUPTOOLS_SCM_PRETEND_VERSION", "CMAKE_ARGS"])
def test_variables_of_compilers_may_be_set_for_builds(name: str) -> None:
    assert checked(definition(build_variables={name: "x"}), WHERE).build_variables == {name: "x"}
