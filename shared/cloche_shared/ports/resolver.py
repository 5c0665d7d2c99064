"""Resolver: from a definition to the exact files."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cloche_shared.contracts.definition import Definition
from cloche_shared.ports.blobs import Blob, Blobs

Say = Callable[[str], Awaitable[None]]
"""Writes one line to the build's log."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One file that the resolver chose. `kind` `sdist` means that it must be built into a wheel.

    `url` may hold credentials and is used for the download only; `hash` is `sha256:<hex>` as the
    index states it, or None; `size` in bytes or None. A conda package has its `build` string and the
    channel's `subdir` too.
    """

    kind: Literal["wheel", "sdist", "conda"]
    name: str
    version: str
    filename: str
    url: str
    hash: str | None
    size: int | None
    build: str = ""
    subdir: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The interpreter's full version and path, the platform tag, the chosen files, the PEP 751 text.

    `indexes` are the index addresses in the order in which they are asked, with their credentials,
    for what a build needs itself; they are never shown or stored. `package_indexes` are those of single packages,
    `build_variables` what is set while packages are built.
    """

    python: str
    interpreter: str
    platform: str
    choices: tuple[Choice, ...]
    pylock: str
    indexes: tuple[str, ...] = field(default=(), repr=False)
    package_indexes: tuple[str, ...] = field(default=(), repr=False)
    build_variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A Python distribution that a conda package installs: its canonical name and version, as pip knows it."""

    name: str
    version: str
    package: str


@dataclass(frozen=True, slots=True)
class Ground:
    """What conda put below pip's packages: its Python, by full version, and the distributions that it installs.

    `interpreter` is the path of that very Python where it was made on this machine, else empty.
    """

    python: str
    platform: str
    interpreter: str = ""
    distributions: tuple[Distribution, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnWheel:
    """A private wheel: its file name, digest and size, and a path of this machine with its bytes."""

    filename: str
    digest: str
    size: int
    path: str


@dataclass(frozen=True, slots=True)
class BuiltWheel:
    """A wheel that was made from an sdist: its file name and bytes' path on this machine."""

    filename: str
    path: str


class Resolver(Protocol):
    """Resolves and compiles; both may take minutes and both write to the build's log.

    Errors are `Failed` with one of the codes `solver_conflict`, `package_not_found`, `index_auth`,
    `index_certificate`, `unreachable`, `wheel_not_compatible`, `compile_error`, `disk_full`, `build_timeout`,
    `hash_missing`; `python_not_available` lists what is here.
    `extra["package"]` names the package where one is to blame.
    """

    async def resolve(
        self, definition: Definition, say: Say, ground: Ground | None = None, own: Sequence[OwnWheel] = ()
    ) -> Resolution:
        """Choose a file for every package of pip's; what the ground has stays as it is there.

        Each wheel of `own` is chosen for its package, and others are chosen to fit it; `wheel_not_compatible` where
        one is for another Python or platform, `solver_conflict` where two are of one package.
        """

    async def build_wheel(self, resolution: Resolution, choice: Choice, sdist: str, say: Say) -> BuiltWheel:
        """Build the sdist at path `sdist` into a wheel, isolated from every environment."""

    async def keep(self, built: BuiltWheel, blobs: Blobs) -> Blob:
        """Store a built wheel's bytes."""

    async def release(self, built: BuiltWheel) -> None:
        """Remove what the build of a wheel left on this machine; twice is harmless."""
