"""`MemoryResolver`: an index of tiny packages in memory, for the simulation and for tests.

It gives the same resolution for the same definition and the same errors as the real one; what it
resolves is served by `MemoryIndexHttp`. A package's wheel is a real, minimal wheel.
"""

import base64
import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cloche_shared.contracts.definition import Definition
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blob, Blobs
from cloche_shared.ports.platform import HttpAnswer
from cloche_shared.ports.resolver import BuiltWheel, Choice, Ground, OwnWheel, Resolution, Say
from cloche_shared.store.own_wheels import own_choices

BASE = "https://index.invalid/files/"


@dataclass(frozen=True, slots=True)
class Package:
    """A version of a package: what it needs, its files, whether only its source is there and compiles."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    only_source: bool = False
    compiles: bool = True

    @property
    def wheel_name(self) -> str:
        """Return the wheel's file name."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def filename(self) -> str:
        """Return the name of the file that the index has."""
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz" if self.only_source else self.wheel_name


def wheel_bytes(package: Package) -> bytes:
    """Return a package's wheel: the same bytes every time."""
    stem = f"{package.name.replace('-', '_')}-{package.version}"
    info = f"{stem}.dist-info"
    requires = "".join(f"Requires-Dist: {line}\n" for line in package.requires)
    files = {
        **package.files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: cloche\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_record_hash(text)},{len(text.encode())}\n" for name, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return target.getvalue()


def _record_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


class MemoryResolver:
    """Chooses the newest version that everybody accepts; one version per package, no backtracking."""

    def __init__(self, packages: Sequence[Package] = (), *, pythons: Sequence[str] = ("3.11.7",)) -> None:
        self.packages = list(packages)
        self._pythons = tuple(pythons)

    def content(self, filename: str) -> bytes | None:
        """Return a file of the index; a source archive's bytes only stand for it."""
        for package in self.packages:
            if package.filename == filename:
                return f"source of {filename}".encode() if package.only_source else wheel_bytes(package)
        return None

    async def resolve(
        self, definition: Definition, say: Say, ground: Ground | None = None, own: Sequence[OwnWheel] = ()
    ) -> Resolution:
        python = self._python(definition.python.version if ground is None else ground.python)
        wanted: dict[str, list[Requirement]] = {}
        pending = [line.split(" --hash=")[0] for line in definition.python.pip]
        chosen: dict[str, Package] = {}
        name: str
        while pending:
            requirement = Requirement(pending.pop(0))
            name = canonicalize_name(requirement.name)
            wanted.setdefault(name, []).append(requirement)
            package = self._best(name, wanted[name])
            if chosen.get(name) != package:
                chosen[name] = package
                pending.extend(package.requires)
        for name in sorted(chosen):
            self._check(chosen[name], wanted[name])
            await say(f"Resolved {name} {chosen[name].version}")
        private = own_choices(own)
        given = {choice.name for choice in private}
        choices = (*(self._choice(chosen[name]) for name in sorted(chosen) if name not in given), *private)
        return Resolution(python, f"/memory/python{python}", "linux-x86_64", choices, _pylock(choices))

    def _python(self, version: str | None) -> str:
        for here in self._pythons:
            if version is None or here == version or here.startswith(version + "."):
                return here
        raise Failed(
            "python_not_available",
            f"Python {version} is not on this machine.",
            why=f"Here are: {', '.join(self._pythons)}.",
            todo="Ask for one of these versions.",
            extra={"python": version, "available": list(self._pythons)},
        )

    def _best(self, name: str, wanted: Sequence[Requirement]) -> Package:
        known = [package for package in self.packages if canonicalize_name(package.name) == name]
        if not known:
            raise Failed(
                "package_not_found",
                f"The package {name} does not exist on the index.",
                todo="Check the spelling, or give the index that has it.",
                extra={"package": name},
            )
        fitting = [package for package in known if _accepts(wanted, package.version)]
        if not fitting:
            raise _conflict(name, wanted)
        return max(fitting, key=lambda package: Version(package.version))

    def _check(self, package: Package, wanted: Sequence[Requirement]) -> None:
        if not _accepts(wanted, package.version):
            raise _conflict(package.name, wanted)

    def _choice(self, package: Package) -> Choice:
        data = self.content(package.filename) or b""
        return Choice(
            kind="sdist" if package.only_source else "wheel",
            name=canonicalize_name(package.name),
            version=package.version,
            filename=package.filename,
            url=BASE + package.filename,
            hash="sha256:" + hashlib.sha256(data).hexdigest(),
            size=len(data),
        )

    async def build_wheel(
        self,
        resolution: Resolution,  # noqa: ARG002 - every wheel of this index is pure
        choice: Choice,
        sdist: str,  # noqa: ARG002 - the source is known by its name
        say: Say,
    ) -> BuiltWheel:
        package = next(item for item in self.packages if item.filename == choice.filename)
        await say(f"Compiling {package.name} {package.version}")
        if not package.compiles:
            raise Failed(
                "compile_error",
                f"The package {package.name} {package.version} could not be compiled.",
                why="error: its compiler failed",
                todo="Use a version that has a wheel.",
                extra={"package": package.name},
            )
        return BuiltWheel(package.wheel_name, f"/memory/{package.wheel_name}")

    async def keep(self, built: BuiltWheel, blobs: Blobs) -> Blob:
        package = next(item for item in self.packages if item.wheel_name == built.filename)
        return await blobs.put_bytes(wheel_bytes(package))

    async def release(self, built: BuiltWheel) -> None:
        """Keep everything: nothing lies on a disk."""


def _accepts(wanted: Sequence[Requirement], version: str) -> bool:
    return all(requirement.specifier.contains(version, prereleases=True) for requirement in wanted)


def _conflict(name: str, wanted: Sequence[Requirement]) -> Failed:
    listed = [str(requirement) for requirement in wanted]
    if len(listed) == 1:
        return Failed(
            "package_not_found",
            f"The index has no version of {name} that matches {listed[0]}.",
            todo="Ask for a version that exists.",
            extra={"package": name},
        )
    return Failed(
        "solver_conflict",
        f"These requirements cannot be met together: {', '.join(listed)}.",
        todo="Loosen or remove one of them.",
        extra={"package": name, "requirements": listed},
    )


def _pylock(choices: Sequence[Choice]) -> str:
    lines = ['lock-version = "1.0"', 'created-by = "cloche"']
    for choice in choices:
        lines += ["", "[[packages]]", f'name = "{choice.name}"', f'version = "{choice.version}"']
    return "\n".join(lines) + "\n"


class MemoryIndexHttp:
    """The port Http, answering only with the files of a `MemoryResolver`."""

    def __init__(self, resolver: MemoryResolver) -> None:
        self._resolver = resolver

    @asynccontextmanager
    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - every caller is answered alike
        timeout: float = 60.0,  # noqa: ARG002, ASYNC109 - the port's parameter; answers come at once
        beside: Sequence[str] = (),  # noqa: ARG002 - there is no network
    ) -> AsyncIterator[HttpAnswer]:
        data = self._resolver.content(url.removeprefix(BASE))
        yield HttpAnswer(404 if data is None else 200, {}, _once(data or b""))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
