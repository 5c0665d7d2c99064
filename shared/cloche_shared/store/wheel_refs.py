"""Private wheels by name: the file name that a wheel's own metadata gives it, and how definitions refer to wheels.

A wheel is referred to by content and file name. Its address at a Cloche (`…/api/v1/wheels/<digest>/<file name>`)
says both, so it may stand among pip's packages; it becomes a reference before anything is kept of it.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from cloche_shared.contracts.definition import Definition, WheelRef
from cloche_shared.errors import Invalid

_ADDRESS: Final = re.compile(
    r"(?:[A-Za-z0-9._-]+ ?@ ?)?https?://[^/\s@]+/api/v1/wheels/(sha256:[0-9a-f]{64})/([^/\s?#;]+\.whl)",
)
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_TAG: Final = re.compile(r"[A-Za-z0-9_.]{1,64}-[A-Za-z0-9_.]{1,64}-[A-Za-z0-9_.]{1,128}")
_BUILD: Final = re.compile(r"\d[A-Za-z0-9_]{0,31}")
MAX_TAGS: Final = 64
MAX_FILENAME: Final = 255


@dataclass(frozen=True, slots=True)
class Identity:
    """What a wheel says of itself: name and version of its METADATA, build and tags of its WHEEL."""

    name: str
    version: str
    build: str = ""
    tags: tuple[str, ...] = ()


def filename_of(identity: Identity, sent_as: str) -> str:
    """Return the wheel's file name: the one it came under where that says the same, else one made of its metadata.

    Raises `Invalid` (`invalid_wheel`) for metadata that no file name can be made of.
    """
    name = _NAME.fullmatch(identity.name)
    tags = identity.tags
    if name is None or not tags or len(tags) > MAX_TAGS or not all(map(_TAG.fullmatch, tags)):
        raise invalid("Its metadata names no package, or no Python that it is for.")
    if identity.build and not _BUILD.fullmatch(identity.build):
        raise invalid("The build number in its metadata cannot be read.")
    try:
        version = str(Version(identity.version))
    except InvalidVersion:
        raise invalid("The version in its metadata cannot be read.") from None
    parts = [canonicalize_name(identity.name).replace("-", "_"), version.replace("-", "_")]
    made = "-".join([*parts, *([identity.build] if identity.build else []), _compressed(tags)]) + ".whl"
    if len(made) > MAX_FILENAME:
        raise invalid("Its file name would be too long.")
    return sent_as if _says_the_same(sent_as, made) else made


def _compressed(tags: Collection[str]) -> str:
    """Return tags as a file name has them: what differs in each of the three parts, with dots between."""
    columns = zip(*(tag.split("-") for tag in tags), strict=True)
    return "-".join(".".join(sorted({one for part in column for one in part.split(".")})) for column in columns)


def _says_the_same(sent_as: str, made: str) -> bool:
    try:
        return len(sent_as) <= MAX_FILENAME and parse_wheel_filename(sent_as) == parse_wheel_filename(made)
    except InvalidWheelFilename:
        return False


def invalid(why: str) -> Invalid:
    """Return the error for a file that is no wheel."""
    return Invalid(
        "invalid_wheel",
        "The file is not a wheel that can be installed.",
        why=why,
        todo="Build it again (`pip wheel`, `uv build --wheel`), and upload that file.",
    )


def name_and_version(filename: str) -> tuple[str, str]:
    """Return canonical name and version. Raises `Invalid` (`invalid_wheel`)."""
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        raise invalid(f"{filename[:200]!r} is not the name of a wheel.") from None
    return str(name), str(version)


def referring(definition: Definition) -> Definition:
    """Return a definition in which the addresses of private wheels are references; anything else stays."""
    section = definition.python
    found = dict(_addresses(section.pip))
    if not found:
        return definition
    pip = tuple(line for line in section.pip if line not in found)
    wheels = tuple({wheel.digest: wheel for wheel in (*section.wheels, *found.values())}.values())
    return definition.model_copy(update={"python": section.model_copy(update={"pip": pip, "wheels": wheels})})


def _addresses(lines: Collection[str]) -> Iterator[tuple[str, WheelRef]]:
    for line in lines:
        match = _ADDRESS.fullmatch(line.strip()) if "/api/v1/wheels/" in line else None
        if match is not None:
            yield line, WheelRef(digest=match[1], filename=unquote(match[2]))
