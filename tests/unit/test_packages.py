"""The packages of a lock, and what differs between two."""

from typing import Literal

import pytest

from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.ports.resolver import Choice, Resolution
from cloche_shared.store.hashing import canonical_json, lock_bytes
from cloche_shared.store.packages import PackageChange, foreseen, package_changes, packages_of, read_packages

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def wheel(name: str, version: str = "1.0", digest: str = ONE, source: str | None = None) -> Artefact:
    kind: Literal["wheel", "built-wheel"] = "built-wheel" if source else "wheel"
    return Artefact(
        kind=kind,
        name=name,
        version=version,
        filename=f"{name}-{version}-py3-none-any.whl",
        url="https://index.invalid/x.whl",
        digest=digest,
        size=1,
        source_digest=source,
    )


def conda(name: str, version: str, build: str) -> Artefact:
    return Artefact(
        kind="conda",
        name=name,
        version=version,
        filename=f"{name}.conda",
        url="https://channel.invalid/x.conda",
        digest=ONE,
        size=1,
        build=build,
        subdir="linux-64",
    )


def lock(*artefacts: Artefact, python: str = "3.11.7") -> Lock:
    return Lock(
        definition_hash="e1:" + "0" * 64, python=python, platform="linux-x86_64", artefacts=artefacts, pylock=""
    )


def choice(name: str, version: str, digest: str | None, kind: str = "wheel") -> Choice:
    return Choice("sdist" if kind == "sdist" else "wheel", name, version, f"{name}.whl", "", digest, None)


def test_what_came_went_and_moved_is_told_by_name() -> None:
    before = packages_of(lock(wheel("alpha"), wheel("gone")))
    after = packages_of(lock(wheel("alpha", "2.0", TWO), wheel("new")))
    assert package_changes(before, after) == [
        PackageChange("pip", "alpha", "1.0", "2.0"),
        PackageChange("pip", "gone", "1.0", None),
        PackageChange("pip", "new", None, "1.0"),
    ]


def test_another_build_of_a_conda_package_is_a_change() -> None:
    before, after = packages_of(lock(conda("blas", "1.0", "a_0"))), packages_of(lock(conda("blas", "1.0", "b_1")))
    assert package_changes(before, after) == [PackageChange("conda", "blas", "1.0 a_0", "1.0 b_1")]


def test_the_same_version_in_another_file_is_a_change_that_shows_the_hashes() -> None:
    (change,) = package_changes(packages_of(lock(wheel("alpha"))), packages_of(lock(wheel("alpha", digest=TWO))))
    assert (change.before, change.after) == ("1.0 (sha256:111111111111)", "1.0 (sha256:222222222222)")


def test_the_same_name_of_conda_and_pip_are_two_packages() -> None:
    before, after = packages_of(lock(conda("alpha", "1.0", "0"))), packages_of(lock(wheel("alpha")))
    assert [(one.kind, one.before, one.after) for one in package_changes(before, after)] == [
        ("conda", "1.0 0", None),
        ("pip", None, "1.0"),
    ]


def test_without_a_lock_before_everything_has_come() -> None:
    assert [one.before for one in package_changes(None, packages_of(lock(wheel("alpha"), wheel("beta"))))] == [None] * 2


@pytest.mark.parametrize("found", [ONE, None])
def test_an_outlook_on_the_same_files_differs_in_nothing(found: str | None) -> None:
    resolution = Resolution("3.11.7", "", "linux-x86_64", (choice("alpha", "1.0", found),), "")
    outlook = foreseen("e1:" + "0" * 64, resolution, resolution.choices)
    assert package_changes(packages_of(lock(wheel("alpha"))), outlook) == []


def test_a_wheel_that_was_built_here_is_known_by_its_source() -> None:
    resolution = Resolution("3.11.7", "", "linux-x86_64", (choice("alpha", "1.0", TWO, "sdist"),), "")
    outlook = foreseen("e1:" + "0" * 64, resolution, resolution.choices)
    assert package_changes(packages_of(lock(wheel("alpha", source=TWO))), outlook) == []


def test_locks_and_outlooks_are_read_back_and_nothing_else_is() -> None:
    known = lock(wheel("alpha"))
    found = packages_of(known)
    assert read_packages(lock_bytes(known)) == found
    assert read_packages(canonical_json(found.model_dump(mode="json"))) == found
    with pytest.raises(ValueError, match="packages"):
        read_packages(b"{}")
