"""Laying a conda package out as in a prefix, once each of its files was found to be what `paths.json` says.

Standard library alone: it runs where py-rattler runs, in a process of its own.
"""

import hashlib
import json
import os
import posixpath
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_FILES = 200_000
MAX_BYTES = 32 << 30
MAX_INFO = 64 << 20

Json = dict[str, Any]
"""A job or an answer: JSON of ours."""

_RESERVED = {"pyvenv.cfg", "cloche.json", "cloche.manifest"}
_LINK_SCRIPT = re.compile(r"bin/\.[^/]+-(pre|post)-(un)?link\.sh")
_OLD_PLACEHOLDER = "/opt/anaconda1anaconda2anaconda3"
_HAS_PREFIX_FIELDS = 3
_INDEX_KEYS = frozenset(
    {"name", "version", "build", "build_number", "depends", "constrains", "subdir", "noarch", "license", "timestamp"}
)


class RefusedError(Exception):
    """A verdict about a job: its kind, and why."""


class Layout:
    """Moves the files that `paths.json` names into the tree, once each was found to be what it says."""

    def __init__(self, raw: Path, tree: Path, minor: str, site: str) -> None:
        self._raw = raw
        self._tree = tree
        self._minor = minor
        self._site = site
        self._index = self._read("info/index.json")
        self._link = self._read("info/link.json", {})
        self._is_python = (
            self._index.get("noarch") == "python" or (self._link.get("noarch") or {}).get("type") == "python"
        )
        self._folders: dict[str, None] = {}
        self._seen: set[str] = set()

    def answer(self) -> Json:
        if self._is_python and not self._minor:
            raise RefusedError("package", "it is a Python package, and there is no Python beside it")
        self._tree.mkdir(mode=0o700)
        entries = self._entries()
        if len(entries) > MAX_FILES or sum(int(entry.get("size_in_bytes") or 0) for entry in entries) > MAX_BYTES:
            raise RefusedError("unsafe", "it has too many files or bytes")
        files, replaced = [], []
        for entry in entries:
            path = self._place(str(entry["_path"]))
            if entry.get("path_type") == "directory":
                self._folder(path)
                continue
            mode = self._move(entry, path)
            if entry.get("prefix_placeholder"):
                how = "binary" if entry.get("file_mode") == "binary" else "text"
                replaced.append([path, how, entry["prefix_placeholder"], mode])
            else:
                files.append(path)
        return {
            "index": {key: value for key, value in self._index.items() if key in _INDEX_KEYS},
            "files": files,
            "replaced": replaced,
            "folders": sorted(self._folders),
            "entry_points": list((self._link.get("noarch") or {}).get("entry_points") or []) if self._is_python else [],
            "scripts": sorted(path for path in self._seen if _LINK_SCRIPT.fullmatch(path)),
        }

    def _read(self, path: str, default: Json | None = None) -> Json:
        data = self._bytes(path)
        if data is None:
            if default is None:
                raise RefusedError("package", f"{path} is missing")
            return default
        try:
            value = json.loads(data)
        except ValueError as error:
            raise RefusedError("package", f"{path} is no JSON") from error
        if not isinstance(value, dict):
            raise RefusedError("package", f"{path} is no JSON object")
        return value

    def _bytes(self, path: str) -> bytes | None:
        file = self._raw / path
        if file.is_symlink() or file.parent.is_symlink() or not file.is_file():
            return None
        if file.stat().st_size > MAX_INFO:
            raise RefusedError("unsafe", f"{path} is too large")
        return file.read_bytes()

    def _entries(self) -> list[Json]:
        """Return `paths.json`, or the same made from the older files of packages that have none."""
        if self._bytes("info/paths.json") is not None:
            entries = self._read("info/paths.json").get("paths")
            if isinstance(entries, list) and all(isinstance(entry, dict) and "_path" in entry for entry in entries):
                return entries
            raise RefusedError("package", "info/paths.json cannot be read")
        names = (self._bytes("info/files") or b"").decode().splitlines()
        return [_old_entry(name, self._raw / name, self._placed()) for name in names if name]

    def _placed(self) -> Mapping[str, tuple[str, str]]:
        found = {}
        for line in (self._bytes("info/has_prefix") or b"").decode().splitlines():
            parts = [part.strip('"') for part in line.split(" ")]
            whole = parts if len(parts) == _HAS_PREFIX_FIELDS else [_OLD_PLACEHOLDER, "text", line.strip()]
            found[whole[2]] = (whole[0], whole[1])
        return found

    def _place(self, path: str) -> str:
        """Return where a file of the package lies in a prefix. Raises for what would leave it."""
        if self._is_python:
            for start, to in (("site-packages/", f"{self._site}/"), ("python-scripts/", "bin/")):
                if path.startswith(start):
                    path = to + path.removeprefix(start)
                    break
        parts = path.split("/")
        if not path or "\0" in path or path.startswith("/") or any(part in {"", ".", ".."} for part in parts):
            raise RefusedError("unsafe", f"{path[:200]!r} leaves the environment")
        if path in self._seen:
            raise RefusedError("unsafe", f"{path[:200]!r} is there twice")
        if parts[0] == "conda-meta" or path in _RESERVED:
            raise RefusedError("unsafe", f"{path[:200]!r} would replace a file of the environment itself")
        self._seen.add(path)
        return path

    def _folder(self, path: str) -> None:
        if path and path not in self._folders:
            self._folder(path.rpartition("/")[0])
            try:
                (self._tree / path).mkdir(mode=0o755)
            except FileExistsError as error:
                raise RefusedError("unsafe", f"{path[:200]!r} is a file and a folder") from error
            self._folders[path] = None

    def _move(self, entry: Json, path: str) -> int:
        source = self._raw / str(entry["_path"])
        try:
            real = Path(os.path.realpath(source.parent)) / source.name
            status = real.lstat()
        except OSError as error:
            raise RefusedError("package", f"{path[:200]!r} is missing") from error
        if not real.is_relative_to(os.path.realpath(self._raw)):
            raise RefusedError("unsafe", f"{path[:200]!r} leaves the package")
        self._folder(path.rpartition("/")[0])
        if stat.S_ISLNK(status.st_mode):
            self._check_link(path, str(real.readlink()))
            real.rename(self._tree / path)
            return status.st_mode
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError("unsafe", f"{path[:200]!r} is neither a file nor a link")
        self._check_bytes(entry, path, real)
        mode = 0o555 if status.st_mode & 0o100 else 0o444
        if status.st_nlink > 1:
            shutil.copyfile(real, self._tree / path, follow_symlinks=False)
        else:
            real.rename(self._tree / path)
        (self._tree / path).chmod(mode)
        return mode

    def _check_link(self, path: str, target: str) -> None:
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if target.startswith("/") or inside.partition("/")[0] == "..":
            raise RefusedError("unsafe", f"the link {path[:200]!r} leaves the environment")

    def _check_bytes(self, entry: Json, path: str, file: Path) -> None:
        wanted = entry.get("sha256")
        if not isinstance(wanted, str):
            return
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != wanted.lower():
                raise RefusedError("package", f"the content of {path[:200]!r} is not what paths.json says")


def _old_entry(name: str, file: Path, placed: Mapping[str, tuple[str, str]]) -> Json:
    kind = "softlink" if file.is_symlink() else "hardlink"
    entry: Json = {"_path": name, "path_type": kind}
    if name in placed:
        entry["prefix_placeholder"], entry["file_mode"] = placed[name]
    return entry
