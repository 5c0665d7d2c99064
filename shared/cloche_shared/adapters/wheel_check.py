"""Looking into a wheel that was uploaded: what it says of itself, and whether its RECORD is right.

Nothing of it is imported or run. The archive is judged by the same rules as when it is installed.
"""

import asyncio
import csv
import hashlib
import hmac
import lzma
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from cloche_shared.blobs.errors import disk_error
from cloche_shared.contracts.definition import Artefact
from cloche_shared.errors import Failed
from cloche_shared.ports.blobs import Blobs
from cloche_shared.store.wheel_refs import Identity, filename_of, invalid

PIECE: Final = 1 << 20
MAX_METADATA: Final = 16 << 20
MAX_NEEDS: Final = 500
MAX_NEED: Final = 256
"""Characters of a requirement that are shown."""
_ANY_MINOR: Final = "3.11"
"""Paths in a prefix are judged for one Python as for any other."""


_UNREADABLE: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, csv.Error),
    *(EOFError, NotImplementedError, RuntimeError, UnicodeError, OverflowError, OSError),
)


@dataclass(frozen=True, slots=True)
class WheelContent:
    """A wheel's file name as its metadata has it, and what it needs (requirements, a range of Pythons)."""

    filename: str
    name: str
    version: str
    requires: tuple[str, ...] = ()
    requires_python: str = ""


async def check_wheel(blobs: Blobs, digest: str, sent_as: str) -> WheelContent:
    """Return what a stored wheel holds. Raises `Invalid` (`invalid_wheel`), `NotFound` (`blob_not_found`)."""
    here = await blobs.file(digest)
    if here is not None:
        return await asyncio.to_thread(_checked, here, digest, sent_as)
    with await asyncio.to_thread(tempfile.NamedTemporaryFile) as copy:
        await _fill(copy.file, blobs, digest)
        return await asyncio.to_thread(_checked, Path(copy.name), digest, sent_as)


async def _fill(file: IO[bytes], blobs: Blobs, digest: str) -> None:
    try:
        async for chunk in blobs.read(digest):
            await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(file.flush)
    except OSError as error:
        raise disk_error(error) from error


def _checked(path: Path, digest: str, sent_as: str) -> WheelContent:
    # the rules of installing are loaded on use: most processes that take uploads install nothing
    from cloche_shared.adapters.local_node_files.wheel import read_contents  # noqa: PLC0415

    try:
        with zipfile.ZipFile(path) as archive:
            content = _told(archive, sent_as)
            artefact = _artefact(content, digest)
            contents = read_contents(path, artefact, _ANY_MINOR)
            for member in contents.members:
                _check_member(archive, member.name, member.algorithm, member.hash)
    except Failed as error:
        raise invalid(error.what) from error
    except _UNREADABLE:
        raise invalid("It is no readable zip archive, or its RECORD is none.") from None
    return content


def _artefact(content: WheelContent, digest: str) -> Artefact:
    return Artefact(
        kind="wheel",
        name=content.name,
        version=content.version,
        filename=content.filename,
        url="",
        digest=digest,
        size=0,
    )


def _told(archive: zipfile.ZipFile, sent_as: str) -> WheelContent:
    from installer.utils import parse_metadata_file  # noqa: PLC0415 - as above

    folder = _dist_info(archive)
    metadata = parse_metadata_file(_text(archive, f"{folder}/METADATA"))
    wheel = parse_metadata_file(_text(archive, f"{folder}/WHEEL"))
    identity = Identity(
        name=str(metadata.get("Name", "")).strip(),
        version=str(metadata.get("Version", "")).strip(),
        build=str(wheel.get("Build", "")).strip(),
        tags=tuple(dict.fromkeys(str(tag).strip() for tag in wheel.get_all("Tag", []))),
    )
    filename = filename_of(identity, sent_as)
    requires = tuple(" ".join(str(one).split())[:MAX_NEED] for one in metadata.get_all("Requires-Dist", []))
    return WheelContent(
        filename=filename,
        name=identity.name,
        version=filename.split("-")[1],
        requires=requires[:MAX_NEEDS],
        requires_python=str(metadata.get("Requires-Python", "")).strip()[:256],
    )


def _dist_info(archive: zipfile.ZipFile) -> str:
    tops = {name.split("/", 1)[0] for name in archive.namelist() if "/" in name}
    found = [top for top in tops if top.endswith(".dist-info")]
    if len(found) != 1:
        raise invalid(f"It has {len(found)} folders *.dist-info, and a wheel has one.")
    return found[0]


def _text(archive: zipfile.ZipFile, name: str) -> str:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise invalid(f"It has no {name.rpartition('/')[2]}.") from None
    if info.file_size > MAX_METADATA or info.flag_bits & 0x1:
        raise invalid(f"Its {name.rpartition('/')[2]} is too large or encrypted.")
    return archive.read(info).decode("utf-8")


def _check_member(archive: zipfile.ZipFile, name: str, algorithm: str, wanted: str) -> None:
    found = hashlib.new(algorithm)
    with archive.open(name) as stream:
        while piece := stream.read(PIECE):
            found.update(piece)
    if not hmac.compare_digest(found.hexdigest(), wanted):
        raise invalid(f"{name[:200]!r} is not the file that its RECORD names.")
