import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cloche_shared.store
from cloche_shared.contracts.definition import Artefact, Definition, Lock, PipOptions, PythonSection
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.errors import Invalid
from cloche_shared.store.hashing import (
    canonical_json,
    definition_hash,
    lock_bytes,
    lock_digest,
    manifest_bytes,
    manifest_digest,
    sha256_digest,
    without_credentials,
)
from cloche_shared.store.variables import check_variables

VECTORS = json.loads((Path(cloche_shared.store.__file__).parent / "e1_vectors.json").read_text())
PLATFORM = "linux-x86_64"
NAMES = st.sampled_from(["numpy", "pandas", "scikit-learn", "ruamel.yaml", "zope-interface", "attrs"])
SPECIFIERS = st.lists(st.sampled_from([">=1", "<9", "!=2.5", "==3.*", "~=4.1"]), unique=True, max_size=3)
PACKAGES = st.dictionaries(NAMES, SPECIFIERS, max_size=5)


def hash_of(*lines: str, **changes: Any) -> str:
    return definition_hash(Definition(python=PythonSection(pip=lines, **changes)), platform=PLATFORM)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_the_published_vectors_hold(vector: dict[str, object]) -> None:
    definition = Definition.model_validate_json(json.dumps(vector["definition"]))
    platform, default = str(vector["platform"]), str(vector["default_python"])
    assert definition_hash(definition, platform=platform, default_python=default) == vector["e1"]


@given(PACKAGES, st.permutations(range(5)), st.dictionaries(st.sampled_from("ABC"), st.text(max_size=3)))
def test_writing_it_differently_never_changes_the_hash(
    packages: dict[str, list[str]], order: list[int], variables: dict[str, str]
) -> None:
    plain = [name + ",".join(specifiers) for name, specifiers in packages.items()]
    written = [
        f"{name.replace('-', '-_.'[number % 3]).title()}  {' , '.join(reversed(specifiers))} "
        for number, (name, specifiers) in zip(order, packages.items(), strict=False)
    ]
    shuffled = [line for _, line in sorted(zip(order, written, strict=False))]
    other = Definition(python=PythonSection(pip=tuple(shuffled)), variables=variables)
    assert definition_hash(other, platform=PLATFORM) == hash_of(*plain)


@given(PACKAGES, PACKAGES)
def test_other_packages_are_another_hash(first: dict[str, list[str]], second: dict[str, list[str]]) -> None:
    def lines(packages: dict[str, list[str]]) -> list[str]:
        return [name + ",".join(specifiers) for name, specifiers in packages.items()]

    same = {name: set(items) for name, items in first.items()} == {name: set(items) for name, items in second.items()}
    assert (hash_of(*lines(first)) == hash_of(*lines(second))) is same


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "3.12"},
        {"version": "3.11.7"},
        {"pip_options": PipOptions(pre=True)},
        {"pip_options": PipOptions(index_url="https://a.example.org")},
        {"pip_options": PipOptions(extra_index_urls=("https://a.example.org",))},
        {"pip_options": PipOptions(no_binary=("numpy",))},
        {"pip_options": PipOptions(only_binary=(":all:",))},
        {"pip_options": PipOptions(require_hashes=True)},
    ],
)
def test_every_setting_counts(changes: dict[str, Any]) -> None:
    assert hash_of("numpy", **changes) != hash_of("numpy")


def test_markers_extras_and_hashes_count() -> None:
    lines = ["numpy", "numpy[x]", "numpy; python_version<'3.12'", "numpy --hash=sha256:" + "a" * 64, "numpy==1"]
    assert len({hash_of(line) for line in lines}) == len(lines)


def test_another_platform_is_another_hash() -> None:
    assert definition_hash(Definition(), platform="linux-aarch64") != definition_hash(Definition(), platform=PLATFORM)


def test_a_version_left_open_is_the_default() -> None:
    assert hash_of("numpy") == hash_of("numpy", version="3.11")


def test_credentials_do_not_count_and_order_of_indexes_does() -> None:
    plain = PipOptions(index_url="https://a.example.org/simple", extra_index_urls=("https://b.org", "https://c.org"))
    secret = plain.model_copy(update={"index_url": "HTTPS://me:secret@A.example.org/simple/"})
    turned = plain.model_copy(update={"extra_index_urls": ("https://c.org", "https://b.org")})
    assert hash_of(pip_options=secret) == hash_of(pip_options=plain)
    assert hash_of(pip_options=turned) != hash_of(pip_options=plain)
    assert without_credentials("https://me:s%40x@host:8443/a?b") == "https://host:8443/a?b"


def test_canonical_json_is_one_text() -> None:
    assert canonical_json({"b": [1, None, True], "a": "e\u0301"}) == '{"a":"\u00e9","b":[1,null,true]}'.encode()


def test_a_manifest_is_named_whatever_its_order() -> None:
    one = FileEntry(path="b", digest="sha256:" + "0" * 64, size=1)
    two = FileEntry(path="a", digest="sha256:" + "1" * 64, size=2)
    manifest = Manifest(files=(one, two))
    assert manifest_digest(manifest) == manifest_digest(Manifest(files=(two, one)))
    assert manifest_digest(manifest) != manifest_digest(Manifest(files=(one,)))
    assert Manifest.model_validate_json(manifest_bytes(manifest)).files == (two, one)


def test_a_lock_is_named_by_its_stored_bytes() -> None:
    digest = "sha256:" + "0" * 64
    artefact = Artefact(kind="wheel", name="a", version="1", filename="a", url="https://x", digest=digest, size=1)
    lock = Lock(definition_hash="e1:0", python="3.11.7", platform=PLATFORM, artefacts=(artefact,), pylock="")
    assert lock_digest(lock) == sha256_digest(lock_bytes(lock))
    assert Lock.model_validate_json(lock_bytes(lock)) == lock
    assert lock_digest(lock.model_copy(update={"python": "3.11.8"})) != lock_digest(lock)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("PATH", "x", "reserved_variable"),
        ("PYTHONPATH", "x", "reserved_variable"),
        ("LD_PRELOAD", "x", "reserved_variable"),
        ("ld_library_path", "x", "reserved_variable"),
        ("NVIDIA_VISIBLE_DEVICES", "all", "reserved_variable"),
        ("CUDA_VISIBLE_DEVICES", "0", "reserved_variable"),
        ("DOCKER_HOST", "x", "reserved_variable"),
        ("CLOCHE_TOKEN", "x", "reserved_variable"),
        ("1A", "x", "invalid_variable"),
        ("A-B", "x", "invalid_variable"),
        ("", "x", "invalid_variable"),
        ("A\n", "x", "invalid_variable"),
        ("A" * 129, "x", "invalid_variable"),
        ("A", "x\0y", "invalid_variable"),
        ("A", "x" * (32 * 1024 + 1), "invalid_variable"),
        ("A", "\u00e9" * (16 * 1024 + 1), "invalid_variable"),
    ],
)
def test_variables_that_cannot_be_passed_on_are_refused(name: str, value: str, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_variables({"FINE": "1", name: value})
    assert caught.value.code == code
    assert len(caught.value.violations) == 1


def test_plain_variables_are_fine() -> None:
    check_variables({"DATA_PATH": "/x", "_a1": "", "MULTI": "line\nbreak", "A" * 128: "x" * 32 * 1024})
