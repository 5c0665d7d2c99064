"""Reading a wheel's table of contents: what is where, and whether it may be.

The archive is read by the rules of our own reader (regular files only, no way out of the tree, no
two names for one path, bounded); its layout by the wheel format (PEP 427 and its successors). Wheels
are larger than what users upload, so they have limits of their own.
"""

import base64
import binascii
import csv
import io
import posixpath
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer.utils import parse_entrypoints, parse_metadata_file
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from cloche_shared.adapters.local_node_files.pool import invalid_wheel
from cloche_shared.contracts.definition import Artefact
from cloche_shared.store.paths import colliding, path_fault

MAX_MEMBERS = 200_000
MAX_BYTES = 32 << 30
MAX_RATIO = 250
RATIO_FLOOR = 16 << 20
"""A member below this size is harmless however well it was compressed."""
MAX_METADATA = 64 << 20

_ALGORITHMS = frozenset({"sha256", "sha384", "sha512"})
_UNSIGNED = ("RECORD", "RECORD.jws", "RECORD.p7s")
_OURS = ("INSTALLER", "REQUESTED", "direct_url.json")
_SCRIPT = re.compile(r"[^/\\\x00-\x1f]{1,255}")
_RESERVED = re.compile(r"(pyvenv\.cfg|cloche\..*|bin/python[0-9.]*|bin/activate.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Member:
    """A file: its name in the archive, its path in the prefix, what RECORD says of it."""

    name: str
    path: str
    algorithm: str
    hash: str
    mode: int
    size: int
    source: bool


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """A script that is generated: `module:attr` under a name; `section` is `console` or `gui`."""

    name: str
    module: str
    attr: str
    section: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a wheel installs; `scripts` are members whose first line names the interpreter."""

    site: str
    dist_info: str
    members: tuple[Member, ...]
    scripts: tuple[str, ...]
    entry_points: tuple[EntryPoint, ...]
    record: tuple[tuple[str, str, str], ...]
    warnings: tuple[str, ...]


def read_contents(path: Path, artefact: Artefact, minor: str) -> Contents:
    """Return what a wheel installs for a Python `minor` (`3.11`).

    Raises `Failed` (code `unsafe_archive` or `invalid_wheel`).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, artefact, minor).contents()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError, OverflowError) as error:
        raise invalid_wheel(f"{artefact.filename} is no readable zip archive.") from error


def _check_archive(infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > MAX_MEMBERS or sum(info.file_size for info in infos) > MAX_BYTES:
        raise _unsafe("it has too many files or bytes")
    for info in infos:
        fault = path_fault(info.filename.rstrip("/")) or _info_fault(info)
        if fault:
            raise _unsafe(f"{info.filename[:200]!r}: {fault}")
    collisions = colliding([info.filename for info in infos if not info.is_dir()])
    if collisions:
        raise _unsafe(f"{collisions[0][:200]!r} has the same path as another file")


def _unsafe(why: str) -> Exception:
    return invalid_wheel(f"The archive is not safe to unpack: {why}.", code="unsafe_archive")


def _info_fault(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "it is a link or a device"
    if info.flag_bits & 0x1:
        return "it is encrypted"
    if info.orig_filename != info.filename:
        return "its name holds a NUL"
    if info.file_size > RATIO_FLOOR and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        return "it expands too much"
    return None


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, artefact: Artefact, minor: str) -> None:
        self._archive = archive
        self._artefact = artefact
        self._site = f"lib/python{minor}/site-packages"
        self._minor = minor
        self._infos = archive.infolist()

    def contents(self) -> Contents:
        _check_archive(self._infos)
        self._name, self._version = self._named()
        self._dist_info = self._folder(".dist-info")
        self._check_format()
        record = self._record()
        members = tuple(self._members(record))
        entry_points = tuple(self._entry_points())
        return Contents(
            site=self._site,
            dist_info=self._dist_info,
            members=members,
            scripts=tuple(self._python_scripts(members)),
            entry_points=entry_points,
            record=tuple(self._installed(members, record)),
            warnings=tuple(self._warnings(members)),
        )

    def _named(self) -> tuple[str, str]:
        try:
            name, version, _, _ = parse_wheel_filename(self._artefact.filename)
        except InvalidWheelFilename as error:
            raise invalid_wheel(f"{self._artefact.filename[:200]!r} is not a wheel's name.") from error
        if name != canonicalize_name(self._artefact.name):
            raise invalid_wheel(f"{self._artefact.filename} is not a wheel of {self._artefact.name}.")
        return name, str(version)

    def _folder(self, suffix: str) -> str:
        tops = {info.filename.split("/", 1)[0] for info in self._infos if "/" in info.filename}
        found = [top for top in tops if top.endswith(suffix) and self._is_own(top.removesuffix(suffix))]
        if len(found) != 1:
            raise invalid_wheel(f"{self._artefact.filename} has {len(found)} folders *{suffix} of its name.")
        return found[0]

    def _is_own(self, stem: str) -> bool:
        return canonicalize_name(stem.rpartition("-")[0]) == self._name

    def _text(self, name: str) -> str | None:
        try:
            info = self._archive.getinfo(f"{self._dist_info}/{name}")
        except KeyError:
            return None
        if info.file_size > MAX_METADATA:
            raise _unsafe(f"{name} is too large")
        return self._archive.read(info).decode("utf-8")

    def _check_format(self) -> None:
        text = self._text("WHEEL")
        version = "" if text is None else str(parse_metadata_file(text).get("Wheel-Version", ""))
        if version.split(".")[0] != "1":
            raise invalid_wheel(f"{self._artefact.filename} has wheel format {version or 'none'}, known is 1.")

    def _record(self) -> dict[str, tuple[str, str]]:
        text = self._text("RECORD")
        if text is None:
            raise invalid_wheel(f"{self._artefact.filename} has no RECORD.")
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}  # noqa: PLR2004 - path, hash, size

    def _members(self, record: dict[str, tuple[str, str]]) -> Iterator[Member]:
        skipped = {f"{self._dist_info}/{name}" for name in (*_UNSIGNED, *_OURS)}
        for info in self._infos:
            if info.is_dir() or info.filename in skipped:
                continue
            if info.filename not in record:
                raise invalid_wheel(f"{info.filename[:200]!r} is not in RECORD.")
            algorithm, digest = _hash(info.filename, record[info.filename][0])
            path = self._place(info.filename)
            runs = path.startswith("bin/") or bool((info.external_attr >> 16) & 0o111)
            source = path.endswith(".py") and path.startswith(self._site + "/")
            mode = 0o555 if runs else 0o444
            yield Member(info.filename, path, algorithm, digest, mode, info.file_size, source)

    def _place(self, name: str) -> str:
        top, _, rest = name.partition("/")
        if not (top.endswith(".data") and self._is_own(top.removesuffix(".data"))):
            return f"{self._site}/{name}"
        scheme, _, inner = rest.partition("/")
        roots = {
            "purelib": self._site,
            "platlib": self._site,
            "scripts": "bin",
            "data": "",
            "headers": f"include/site/python{self._minor}/{self._name}",
        }
        if scheme not in roots or not inner:
            raise invalid_wheel(f"{name[:200]!r} has no place: the scheme {scheme[:64]!r} is not known.")
        path = posixpath.join(roots[scheme], inner)
        if _RESERVED.fullmatch(path):
            raise invalid_wheel(f"{name[:200]!r} would replace a file of the environment itself.")
        return path

    def _entry_points(self) -> Iterator[EntryPoint]:
        text = self._text("entry_points.txt")
        if text is None:
            return
        try:
            found = list(parse_entrypoints(text))
        except (ValueError, AssertionError) as error:
            raise invalid_wheel("entry_points.txt cannot be read.") from error
        for name, module, attr, section in found:
            if not _SCRIPT.fullmatch(name) or name in {".", ".."} or _RESERVED.fullmatch(f"bin/{name}"):
                raise invalid_wheel(f"The entry point {name[:200]!r} has no usable name.")
            yield EntryPoint(name, module, attr, section)

    def _python_scripts(self, members: tuple[Member, ...]) -> Iterator[str]:
        for member in members:
            if member.path.startswith("bin/"):
                with self._archive.open(member.name) as stream:
                    if stream.read(8) == b"#!python":
                        yield member.path

    def _installed(
        self, members: tuple[Member, ...], record: dict[str, tuple[str, str]]
    ) -> Iterator[tuple[str, str, str]]:
        inside = f"{self._site}/"
        for member in members:
            own = member.path.startswith(inside)
            path = member.path.removeprefix(inside) if own else posixpath.relpath(member.path, self._site)
            yield path, *record[member.name]

    def _warnings(self, members: tuple[Member, ...]) -> Iterator[str]:
        for member in members:
            if member.path.endswith(".pth") and posixpath.dirname(member.path) == self._site:
                name = posixpath.basename(member.path)
                yield f"{self._artefact.name} installs {name}, which runs at every start of the interpreter."


def _hash(name: str, text: str) -> tuple[str, str]:
    algorithm, _, value = text.partition("=")
    if algorithm not in _ALGORITHMS:
        raise invalid_wheel(f"RECORD has no usable hash of {name[:200]!r}.")
    try:
        raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError) as error:
        raise invalid_wheel(f"RECORD has no readable hash of {name[:200]!r}.") from error
    return algorithm, raw.hex()
