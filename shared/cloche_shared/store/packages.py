"""The packages of a lock, and what differs between two of them; also of one that was foreseen and never made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.utils import canonicalize_name

from cloche_shared.contracts.common import Strict
from cloche_shared.contracts.definition import Artefact, Lock
from cloche_shared.ports.resolver import Choice, Resolution

Origin = Literal["conda", "pip"]
SHOWN = 19
"""Characters of a hash that a difference shows."""


class LockedPackage(Strict):
    """One package: its version, a conda package's build, and the hash of the file that it was made from.

    `hash` is empty where it is not known; of a wheel that was built here it is that of the source archive.
    """

    kind: Origin
    name: str
    version: str
    build: str = ""
    hash: str = ""


class Packages(Strict):
    """All packages of a lock, or of an outlook; `python` is the interpreter's full version."""

    definition_hash: str
    python: str
    platform: str
    packages: tuple[LockedPackage, ...]


@dataclass(frozen=True, slots=True)
class PackageChange:
    """A package that came, went or changed; None: not there."""

    kind: Origin
    name: str
    before: str | None
    after: str | None


def packages_of(lock: Lock) -> Packages:
    """Return the packages that a lock names."""
    found = tuple(map(_locked, lock.artefacts))
    return Packages(definition_hash=lock.definition_hash, python=lock.python, platform=lock.platform, packages=found)


def _locked(artefact: Artefact) -> LockedPackage:
    return LockedPackage(
        kind="conda" if artefact.kind == "conda" else "pip",
        name=artefact.name,
        version=artefact.version,
        build=artefact.build,
        hash=artefact.source_digest or artefact.digest,
    )


def foreseen(definition_hash: str, resolution: Resolution, choices: Sequence[Choice]) -> Packages:
    """Return the packages that were chosen, before any of their files is here."""
    found = tuple(
        LockedPackage(
            kind="conda" if choice.kind == "conda" else "pip",
            name=choice.name,
            version=choice.version,
            build=choice.build,
            hash=choice.hash or "",
        )
        for choice in choices
    )
    return Packages(
        definition_hash=definition_hash, python=resolution.python, platform=resolution.platform, packages=found
    )


def read_packages(raw: bytes) -> Packages:
    """Return the packages of a stored lock or outlook. Raises `ValueError` for anything else."""
    try:
        return packages_of(Lock.model_validate_json(raw))
    except ValueError:
        return Packages.model_validate_json(raw)


def package_changes(before: Packages | None, after: Packages) -> list[PackageChange]:
    """Return what differs, conda first, then by name; without a lock before everything has come."""
    one = {} if before is None else _by_name(before.packages)
    return list(_changes(one, _by_name(after.packages)))


def _by_name(packages: Sequence[LockedPackage]) -> dict[tuple[Origin, str], LockedPackage]:
    return {(one.kind, canonicalize_name(one.name) if one.kind == "pip" else one.name): one for one in packages}


def _changes(
    before: Mapping[tuple[Origin, str], LockedPackage], after: Mapping[tuple[Origin, str], LockedPackage]
) -> Iterator[PackageChange]:
    for kind, name in sorted({*before, *after}):
        was, now = before.get((kind, name)), after.get((kind, name))
        if was is not None and now is not None and _same_version(was, now):
            if was.hash and now.hash and was.hash != now.hash:
                yield PackageChange(kind, name, _with_hash(was), _with_hash(now))
        else:
            yield PackageChange(kind, name, _shown(was), _shown(now))


def _same_version(one: LockedPackage, other: LockedPackage) -> bool:
    return (one.version, one.build) == (other.version, other.build)


def _shown(package: LockedPackage | None) -> str | None:
    if package is None:
        return None
    return f"{package.version} {package.build}".rstrip()


def _with_hash(package: LockedPackage) -> str:
    return f"{_shown(package)} ({package.hash[:SHOWN]})"
