"""What a build does where conda packages are part of a definition: what it asks, and what it hands on to pip."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloche_shared.contracts.definition import Artefact, CondaSection, Definition, Lock
from cloche_shared.definitions.conda import name_of
from cloche_shared.errors import Failed
from cloche_shared.ports.conda import CondaRecord, CondaSolver, CondaWish
from cloche_shared.ports.resolver import Choice, Resolution
from cloche_shared.store.conda_places import CHANNEL_ALIAS, channel_urls, subdir_of
from cloche_shared.store.pixi_lock import pixi_lock

_SILENT = (None, CondaSection())


@dataclass(frozen=True, slots=True)
class CondaTools:
    """What conda packages are chosen with.

    `platform` is what environments are made for (`linux-x86_64`), `virtual` what that brings itself
    (`__glibc=2.28=0`), `alias` the address below which a channel's name is looked for.
    """

    solver: CondaSolver
    platform: str
    virtual: tuple[str, ...] = ()
    alias: str = CHANNEL_ALIAS


def asks_conda(definition: Definition) -> bool:
    """Whether conda brings the Python of a definition: it does wherever packages or channels are named."""
    return definition.python.conda not in _SILENT


def wish_of(definition: Definition, tools: CondaTools) -> CondaWish:
    """Return what is asked of conda, Python always: the definition's version, unless a spec names a range."""
    section = definition.python
    packages = section.conda.packages if section.conda else ()
    channels = section.conda.channels if section.conda else ()
    named = any(name_of(spec) == "python" for spec in packages)
    python = () if named else (f"python={section.version}.*" if section.version else "python",)
    return CondaWish(
        specs=(*python, *packages),
        channels=channel_urls(channels, tools.alias),
        subdir=subdir_of(tools.platform),
        virtual=tools.virtual,
    )


def conda_resolution(records: Sequence[CondaRecord], wish: CondaWish, platform: str) -> Resolution:
    """Return what fetches the chosen packages. Raises `Failed` (`python_not_available`) where none is Python."""
    python = next((record.version for record in records if record.name == "python"), None)
    if python is None:
        raise Failed(
            "python_not_available",
            "The conda packages bring no Python.",
            todo="Add `python` to the conda packages.",
            extra={"package": "python"},
        )
    return Resolution(python, "", platform, tuple(map(_choice, records)), "", wish.channels)


def _choice(record: CondaRecord) -> Choice:
    return Choice(
        kind="conda",
        name=record.name,
        version=record.version,
        filename=record.filename,
        url=record.url,
        hash=record.sha256,
        size=record.size,
        build=record.build,
        subdir=record.subdir,
    )


def conda_lock(
    definition_hash: str,
    wish: CondaWish,
    records: Sequence[CondaRecord],
    resolution: Resolution,
    artefacts: tuple[Artefact, ...],
) -> Lock:
    """Return the lock of conda's packages and, on top of them, pip's; `resolution` is pip's where it has any."""
    return Lock(
        definition_hash=definition_hash,
        python=resolution.python,
        platform=resolution.platform,
        artefacts=artefacts,
        pylock=resolution.pylock,
        pixi_lock=pixi_lock(wish.channels, resolution.indexes, wish.subdir, records, artefacts),
    )
