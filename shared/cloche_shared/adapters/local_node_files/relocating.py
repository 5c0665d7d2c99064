"""What conda packages need in each prefix: the prefix's path in place of their placeholder, and their records.

A package's files name the folder in which it was built; conda replaces that by the folder in which it is
installed. In text the name is simply replaced; in a binary each NUL-terminated string that holds it keeps
its length, filled up with NULs, so that nothing behind it moves.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from cloche_shared.adapters.local_node_files.wheel import EntryPoint
from cloche_shared.contracts.definition import Artefact
from cloche_shared.errors import Failed

MAX_SHEBANG = 127
"""Bytes of a script's first line that every Linux kernel takes."""

_SHEBANG = re.compile(rb"^#!\s*(/(?:\\ |[^ \n\r\t])*)([^\n]*)")
_ENTRY_POINT = re.compile(r"\s*([\w.-]+)\s*=\s*([\w.]+)\s*:\s*([\w.]+)\s*")


@dataclass(frozen=True, slots=True)
class Replaced:
    """A file that is written for each prefix: how (`text`, `binary`), its placeholder, what it is in the store."""

    path: str
    how: str
    placeholder: str
    expected: list[int]


@dataclass(frozen=True, slots=True)
class CondaPart:
    """What a conda package brings besides files to link. `meta` is its record for `conda-meta`, but for its address."""

    replaced: list[Replaced]
    meta: dict[str, object]


def relocated(data: bytes, file: Replaced, prefix: str) -> bytes:
    """Return a file's bytes for a prefix. Raises `Failed` (code `path_too_long`)."""
    old, new = file.placeholder.encode(), prefix.encode()
    if file.how == "binary":
        return _in_binary(data, old, new, file.path)
    return _short_shebang(data.replace(old, new))


def _in_binary(data: bytes, old: bytes, new: bytes, path: str) -> bytes:
    if old not in data:
        return data
    if len(new) > len(old):
        raise Failed(
            "path_too_long",
            f"{path} cannot be installed below the data folder.",
            why=f"Its path is longer than the {len(old)} bytes that the conda package leaves for it.",
            todo="Use a data folder with a shorter path.",
        )

    def fill(match: re.Match[bytes]) -> bytes:
        text = match[0][:-1].replace(old, new)
        return text + b"\0" * (len(match[0]) - len(text))

    return re.sub(re.escape(old) + rb"[^\0]*\0", fill, data)


def _short_shebang(data: bytes) -> bytes:
    """Let `env` find the interpreter of a script whose first line no kernel would take whole."""
    match = _SHEBANG.match(data)
    if match is None or (len(match[0]) <= MAX_SHEBANG and b"\\ " not in match[1]):
        return data
    return b"#!/usr/bin/env " + match[1].rpartition(b"/")[2] + match[2] + data[match.end() :]


def entry_points(lines: Sequence[str]) -> Iterator[EntryPoint]:
    """Yield the scripts of a noarch Python package (`name = module:function`)."""
    for line in lines:
        match = _ENTRY_POINT.fullmatch(str(line))
        if match is None:
            raise ValueError(str(line)[:200])
        yield EntryPoint(match[1], match[2], match[3], "console")


def record_name(meta: Mapping[str, object]) -> str:
    """Return the file name of a package's record below `conda-meta`."""
    return f"{meta['name']}-{meta['version']}-{meta['build']}.json"


def record(meta: Mapping[str, object], artefact: Artefact) -> bytes:
    """Return a package's record for `conda-meta`, where conda and others look for what is installed."""
    channel = artefact.url.rsplit("/", 2)[0]
    address = {"fn": artefact.filename, "url": artefact.url, "channel": channel, "size": artefact.size}
    digest = artefact.digest.removeprefix("sha256:")
    return orjson.dumps({**meta, **address, "sha256": digest}, option=orjson.OPT_INDENT_2)
