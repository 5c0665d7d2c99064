"""Prefixes: making one from the store, and finding out whether one was touched.

A prefix is laid out like a virtual environment. Its files are hard links into the store (copies
where linking is not possible); scripts and RECORD are its own. It is made beside its place, for its
place, and renamed when it is whole. `cloche.json` says what it was made from, `cloche.manifest`
what each file's inode, size, mtime and mode must be; without the manifest it is not usable.
"""

import base64
import errno
import hashlib
import io
import os
import posixpath
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import orjson
from installer.scripts import Script

from cloche_shared.adapters.interpreters import Interpreter
from cloche_shared.adapters.local_node_files.relocating import CondaPart, record, record_name, relocated
from cloche_shared.adapters.local_node_files.store import Expected, Plan, Tree, load_plan, record_field
from cloche_shared.contracts.definition import Artefact

MANIFEST = "cloche.manifest"
ABOUT = "cloche.json"
INSTALLER = b"cloche\n"
FORMAT = 1

_NO_FOLDER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_COPY_INSTEAD = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP})


class StoreChangedError(Exception):
    """A wheel of the store is gone or was touched; `keys` names the folders in the store."""

    def __init__(self, keys: Iterable[str]) -> None:
        super().__init__("the store changed")
        self.keys = tuple(sorted(keys))


@dataclass(slots=True)
class Touched:
    """What a look at a prefix found: files that changed or went, and files that nobody linked."""

    changed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.changed or self.extra)


def _expected(status: os.stat_result) -> Expected:
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode]


def _loadable(name: str, cache_tag: str) -> bool:
    return name.endswith(f".{cache_tag}.pyc")


def look(prefix: Path, tree: Tree, cache_tag: str) -> Touched:
    """Compare a prefix with its manifest: one list per folder and one stat per file, nothing is read.

    Files are looked at by name from their open folder: finding each by its whole path would take
    twice as long.
    """
    touched = Touched()
    try:
        with opened(prefix) as root:
            for folder, files in tree.items():
                _look_into(root, folder, files, tree, cache_tag, touched)
    except FileNotFoundError:
        touched.changed.append("")
    return touched


def _look_into(
    root: int, folder: str, files: dict[str, Expected], tree: Tree, cache_tag: str, touched: Touched
) -> None:
    start = folder + "/" if folder else ""
    try:
        with opened(folder or ".", root) as handle:
            names = os.listdir(handle)  # noqa: PTH208 - pathlib takes no open folder
            touched.changed.extend(start + name for name in _changed(handle, files))
            for name in names:
                if name not in files and start + name not in tree and not _is_harmless(folder, name, handle, cache_tag):
                    touched.extra.append(start + name)
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        touched.changed.append(folder)


def _changed(folder: int, files: dict[str, Expected]) -> Iterator[str]:
    """Yield the names of files that are not, or not any more, what they must be."""
    stat_of = os.stat
    for name, wanted in files.items():
        try:
            status = stat_of(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            yield name
        else:
            if [status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode] != wanted:
                yield name


def _is_harmless(folder: str, name: str, handle: int, cache_tag: str) -> bool:
    """Tell a cache that a program wrote beside bytecode from a file that the interpreter would load."""
    if posixpath.basename(folder) == "__pycache__":
        return not _loadable(name, cache_tag) and stat.S_ISREG(_mode(name, handle))
    return not folder and name in {MANIFEST, ABOUT}


def _mode(name: str, folder: int) -> int:
    """Return a file's mode, 0 when it is gone."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def load_tree(prefix: Path) -> tuple[Tree, list[str], list[str]] | None:
    """Return (manifest, store keys, warnings) of a prefix, or None when it is not whole."""
    try:
        about = orjson.loads((prefix / ABOUT).read_bytes())
        tree: Tree = orjson.loads((prefix / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError):
        return None
    if about.get("format") != FORMAT:
        return None
    return tree, about["artefacts"], about["warnings"]


class Builder:
    """Makes one prefix in `folder` for the place `final`. Runs in a thread.

    The interpreter is linked in as a virtual environment does it, unless `conda` packages, by key, bring one.
    """

    def __init__(
        self, folder: Path, final: Path, interpreter: Interpreter, conda: Mapping[str, Artefact] | None = None
    ) -> None:
        self._folder = folder
        self._root = str(folder)
        self._final = final
        self._interpreter = interpreter
        self._conda = conda or {}
        self._tree: Tree = {"": {}}
        self._warnings: list[str] = []
        self._changed: set[str] = set()

    def build(self, store: Path, keys: list[str]) -> list[str]:
        """Make the prefix and return its warnings. Raises `StoreChangedError`, `OSError`."""
        plans = {key: load_plan(store / key) for key in keys}
        self._changed = {key for key, plan in plans.items() if plan is None}
        self._skeleton()
        for key, plan in plans.items():
            if plan is not None:
                self._install(plan, store / key / "tree")
        if self._changed:
            raise StoreChangedError(self._changed)
        self._finish(keys)
        return self._warnings

    def _skeleton(self) -> None:
        python = self._interpreter
        self._folder.mkdir(mode=0o700, parents=True)
        for path in ("bin", "lib", f"lib/python{python.minor}", f"lib/python{python.minor}/site-packages"):
            self._make_folder(path)
        if self._conda:
            self._make_folder("conda-meta")
            self._write("conda-meta/history", b"", 0o444)
            return
        home = posixpath.dirname(python.path)
        text = f"home = {home}\ninclude-system-site-packages = false\nversion = {python.version}\n"
        self._write("pyvenv.cfg", text.encode(), 0o444)
        for name in (f"python{python.minor}", "python3", "python"):
            self._link_python(f"bin/{name}")

    def _link_python(self, path: str) -> None:
        (self._folder / path).symlink_to(self._interpreter.path)
        self._note(path, _expected((self._folder / path).lstat()))

    def _make_folder(self, path: str) -> None:
        if path not in self._tree:
            os.mkdir(f"{self._root}/{path}", 0o755)  # noqa: PTH102 - a thousand folders: a Path each takes 30 ms
            self._tree[path] = {}

    def _note(self, path: str, expected: Expected) -> None:
        folder, _, name = path.rpartition("/")
        self._tree[folder][name] = expected

    def _write(self, path: str, data: bytes, mode: int) -> None:
        target = self._folder / path
        target.unlink(missing_ok=True)
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(file, mode)
            self._note(path, _expected(os.fstat(file)))

    def _install(self, plan: Plan, tree: Path) -> None:
        self._link(plan, tree)
        if plan.key in self._changed:
            return
        scripts = dict([*self._rewritten(plan, tree), *self._generated(plan)])
        if plan.conda is None:
            self._records(plan, scripts)
        else:
            self._relocate(plan, plan.conda, tree)
        self._warnings.extend(plan.warnings)

    def _link(self, plan: Plan, tree: Path) -> None:
        try:
            with opened(tree) as source, opened(self._folder) as target:
                for folder, files in plan.files.items():
                    self._make_folder(folder)
                    if files:
                        with opened(folder or ".", source) as theirs, opened(folder or ".", target) as ours:
                            self._link_files(plan, folder, theirs, ours)
        except FileNotFoundError:
            self._changed.add(plan.key)

    def _link_files(self, plan: Plan, folder: str, source: int, target: int) -> None:
        """Link a folder's files, and see of each that it is what was unpacked: the store may have been touched."""
        link, stat_of = os.link, os.stat
        noted = self._tree[folder]
        for name, unpacked in plan.files[folder].items():
            expected = unpacked
            try:
                link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            except FileExistsError:
                expected = self._meet(plan, posixpath.join(folder, name), (source, target), unpacked)
            except OSError as error:
                expected = _copied(plan.key, name, (source, target), unpacked, error)
            status = stat_of(name, dir_fd=target, follow_symlinks=False)
            if [status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode] != expected:
                self._changed.add(plan.key)
            noted[name] = expected

    def _meet(self, plan: Plan, path: str, folders: tuple[int, int], unpacked: Expected) -> Expected:
        """Two wheels have a file of one path: the last one's stays, with a warning unless they are equal."""
        source, target = folders
        name = posixpath.basename(path)
        if _digest(name, source) != _digest(name, target):
            self._warnings.append(f"{plan.name} replaces {path}, which another package installs too.")
        os.unlink(name, dir_fd=target)
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            return _copied(plan.key, name, folders, unpacked, error)
        return unpacked

    def _rewritten(self, plan: Plan, tree: Path) -> Iterator[tuple[str, bytes]]:
        """Write the scripts that name the interpreter `#!python`."""
        for path in plan.scripts:
            rest = (tree / path).read_bytes().partition(b"\n")[2]
            data = f"#!{self._final}/bin/python\n".encode() + rest
            self._write(path, data, 0o555)
            yield path, data

    def _generated(self, plan: Plan) -> Iterator[tuple[str, bytes]]:
        for entry in plan.entry_points:
            section: Literal["console", "gui"] = "gui" if entry.section == "gui" else "console"
            script = Script(entry.name, entry.module, entry.attr, section)
            name, data = script.generate(f"{self._final}/bin/python", kind="posix")
            self._write(f"bin/{name}", data, 0o555)
            yield f"bin/{name}", data

    def _relocate(self, plan: Plan, part: CondaPart, tree: Path) -> None:
        """Write a conda package's files that name the prefix, and its record."""
        for file in part.replaced:
            if self._named(file.path):
                self._warnings.append(f"{plan.name} replaces {file.path}, which another package installs too.")
            source = os.open(tree / file.path, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(source, "rb") as stream:
                if _expected(os.fstat(source)) != file.expected:
                    self._changed.add(plan.key)
                    return
                data = stream.read()
            mode = stat.S_IMODE(file.expected[3])
            self._write(file.path, relocated(data, file, str(self._final)), mode)
        self._write(f"conda-meta/{record_name(part.meta)}", record(part.meta, self._conda[plan.key]), 0o444)

    def _named(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in self._tree[folder]

    def _records(self, plan: Plan, scripts: dict[str, bytes]) -> None:
        base = f"{plan.site}/{plan.dist_info}"
        self._write(f"{base}/INSTALLER", INSTALLER, 0o444)
        written = {posixpath.relpath(path, plan.site): data for path, data in scripts.items()}
        written[f"{plan.dist_info}/INSTALLER"] = INSTALLER
        text = io.StringIO()
        text.write(plan.record)
        for path, data in written.items():
            text.write(f"{record_field(path)},sha256={_record_hash(data)},{len(data)}\n")
        text.write(f"{record_field(plan.dist_info)}/RECORD,,\n")
        self._write(f"{base}/RECORD", text.getvalue().encode(), 0o444)

    def _finish(self, keys: list[str]) -> None:
        about = {
            "format": FORMAT,
            "python": self._interpreter.version,
            "artefacts": keys,
            "warnings": self._warnings,
        }
        (self._folder / ABOUT).write_bytes(orjson.dumps(about))
        (self._folder / MANIFEST).write_bytes(orjson.dumps(self._tree))


def owners(store: Path, keys: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Return the store folders that bring any of the given paths."""
    wanted = list(paths)
    found = []
    for key in keys:
        plan = load_plan(store / key)
        if plan is None or any(_brings(plan, path) for path in wanted):
            found.append(key)
    return found


def _brings(plan: Plan, path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return path in plan.files or name in plan.files.get(folder, {})


@contextmanager
def opened(folder: str | Path, parent: int | None = None) -> Iterator[int]:
    """Hold a folder open; a link in its place is refused."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield handle
    finally:
        os.close(handle)


def _record_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def _digest(path: str, folder: int) -> bytes:
    if stat.S_ISLNK(_mode(path, folder)):
        return os.fsencode(os.readlink(path, dir_fd=folder))
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    with os.fdopen(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _copied(key: str, name: str, folders: tuple[int, int], unpacked: Expected, why: OSError) -> Expected:
    """Copy a file that cannot be linked (another file system, too many links); raise what is no such reason."""
    if why.errno not in _COPY_INSTEAD:
        raise why
    if stat.S_ISLNK(unpacked[3]):
        os.symlink(os.readlink(name, dir_fd=folders[0]), name, dir_fd=folders[1])
        return _expected(os.stat(name, dir_fd=folders[1], follow_symlinks=False))
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folders[0])
    with os.fdopen(source, "rb") as reader:
        if _expected(os.fstat(source)) != unpacked:
            raise StoreChangedError([key])
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        target = os.open(name, flags, 0o600, dir_fd=folders[1])
        with os.fdopen(target, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fchmod(target, stat.S_IMODE(unpacked[3]))
            return _expected(os.fstat(target))
