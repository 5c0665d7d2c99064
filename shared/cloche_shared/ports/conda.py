"""Conda: choosing conda packages, and looking into those that were fetched."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cloche_shared.contracts.definition import Artefact
from cloche_shared.ports.blobs import Blobs
from cloche_shared.ports.resolver import Distribution, Say


@dataclass(frozen=True, slots=True)
class CondaWish:
    """What is asked of conda: specs as written, addresses of channels (first wins), conda's name of the platform.

    `channels` may hold credentials and are never shown. `virtual` are what the target itself brings, each
    `name=version=build`, such as `__glibc=2.28=0`.
    """

    specs: tuple[str, ...]
    channels: tuple[str, ...] = field(repr=False)
    subdir: str
    virtual: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CondaRecord:
    """One conda package that was chosen, as its channel describes it.

    `url` may hold credentials and is used for the download only; `channel` holds none. `sha256` is
    `sha256:<hex>`, or None where the channel states none; `size` in bytes, or None.
    """

    name: str
    version: str
    build: str
    subdir: str
    channel: str
    filename: str
    url: str = field(repr=False)
    sha256: str | None
    size: int | None
    noarch: str = ""
    md5: str = ""
    license: str = ""
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()


class CondaSolver(Protocol):
    """Solves and looks; both run outside this process, with a deadline.

    Errors are `Failed` with one of the codes `solver_conflict`, `package_not_found`, `invalid_conda_spec`,
    `channel_not_found`, `index_auth`, `unreachable`, `url_not_allowed`, `disk_full`, `build_timeout`;
    `extra["package"]` names the package where one is to blame.
    """

    async def solve(self, wish: CondaWish, say: Say) -> tuple[CondaRecord, ...]:
        """Choose a build of every package, by name. Channels are strict: a package comes from the first that has it."""

    async def distributions(self, artefacts: Sequence[Artefact], blobs: Blobs) -> tuple[Distribution, ...]:
        """Return the Python distributions that conda packages install, whose bytes are in the blobs."""
