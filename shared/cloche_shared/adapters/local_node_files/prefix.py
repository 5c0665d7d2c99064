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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import orjson
from installer.scripts import Script

from cloche_shared.adapters.interpreters import Interpreter
from cloche_shared.adapters.local_node_files.store import Plan, load_plan, record_field

MANIFEST = "cloche.manifest"
ABOUT = "cloche.json"
FORMAT = 1

Expected = list[int]
"""Inode, size, mtime_ns, mode."""
Tree = dict[str, dict[str, Expected]]
"""Folder → file name → what it must be. Folders are relative to the prefix, its own is ``."""

_COPY_INSTEAD = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP})


class StoreChangedError(Exception):
    """A wheel of the store is gone or was touched; `keys` names the folders in the store."""

    def __init__(self, keys: Iterable[str]) -> None:
        super().__init__("the store changed")
        self.keys = tuple(keys)


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
    """Compare a prefix with its manifest: one folder scan and one stat per file, nothing is read."""
    touched = Touched()
    root = str(prefix)  # a Path per folder would be a third of the time
    for folder, files in tree.items():
        _look_into(root, folder, files, tree, cache_tag, touched)
    return touched


def _look_into(
    root: str, folder: str, files: dict[str, Expected], tree: Tree, cache_tag: str, touched: Touched
) -> None:
    seen = 0
    start = folder + "/" if folder else ""
    try:
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                name = entry.name
                wanted = files.get(name)
                if wanted is not None:
                    status = entry.stat(follow_symlinks=False)
                    seen += 1
                    if [status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode] != wanted:
                        touched.changed.append(start + name)
                elif start + name not in tree and not _is_harmless(folder, entry, cache_tag):
                    touched.extra.append(start + name)
    except (FileNotFoundError, NotADirectoryError):
        touched.changed.append(folder)
        return
    if seen != len(files):
        present = {path.name for path in Path(root, folder).iterdir()}
        touched.changed.extend(start + name for name in files if name not in present)


def _is_harmless(folder: str, entry: os.DirEntry[str], cache_tag: str) -> bool:
    """Tell a cache that a program wrote beside bytecode from a file that the interpreter would load."""
    if posixpath.basename(folder) == "__pycache__":
        return entry.is_file(follow_symlinks=False) and not _loadable(entry.name, cache_tag)
    return not folder and entry.name in {MANIFEST, ABOUT}


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
    """Makes one prefix in `folder` for the place `final`. Runs in a thread."""

    def __init__(self, folder: Path, final: Path, interpreter: Interpreter) -> None:
        self._folder = folder
        self._root = str(folder)
        self._final = final
        self._interpreter = interpreter
        self._tree: Tree = {"": {}}
        self._warnings: list[str] = []

    def build(self, store: Path, keys: list[str]) -> list[str]:
        """Make the prefix and return its warnings. Raises `StoreChangedError`, `OSError`."""
        self._skeleton()
        for key in keys:
            plan = load_plan(store / key)
            if plan is None:
                raise StoreChangedError([key])
            self._install(plan, store / key / "tree")
        self._check(store, keys)
        self._finish(keys)
        return self._warnings

    def _skeleton(self) -> None:
        python = self._interpreter
        self._folder.mkdir(mode=0o700, parents=True)
        for path in ("bin", "lib", f"lib/python{python.minor}", f"lib/python{python.minor}/site-packages"):
            self._make_folder(path)
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
        for folder in plan.folders:
            self._make_folder(folder)
        self._link(plan, tree)
        scripts = [*self._rewritten(plan, tree), *self._generated(plan)]
        self._records(plan, scripts)
        self._warnings.extend(plan.warnings)

    def _link(self, plan: Plan, tree: Path) -> None:
        source = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
        target = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._link_all(plan, source, target)
        except FileNotFoundError as error:
            raise StoreChangedError([plan.key]) from error
        finally:
            os.close(source)
            os.close(target)

    def _link_all(self, plan: Plan, source: int, target: int) -> None:
        link = os.link
        folders = self._tree
        for path, inode, size, mtime, mode in plan.files:
            expected = [inode, size, mtime, mode]
            try:
                link(path, path, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            except FileExistsError:
                expected = self._meet(plan, path, (source, target), expected)
            except OSError as error:
                if error.errno not in _COPY_INSTEAD:
                    raise
                expected = _copied(path, (source, target), mode)
            folder, _, name = path.rpartition("/")
            folders[folder][name] = expected

    def _meet(self, plan: Plan, path: str, folders: tuple[int, int], expected: Expected) -> Expected:
        """Two wheels have a file of one path: the last one's stays, with a warning unless they are equal."""
        source, target = folders
        if _digest(path, source) != _digest(path, target):
            self._warnings.append(f"{plan.name} replaces {path}, which another package installs too.")
        os.unlink(path, dir_fd=target)
        try:
            os.link(path, path, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _COPY_INSTEAD:
                raise
            return _copied(path, folders, expected[3])
        return expected

    def _rewritten(self, plan: Plan, tree: Path) -> Iterator[str]:
        """Write the scripts that name the interpreter `#!python`."""
        for path in plan.scripts:
            rest = (tree / path).read_bytes().partition(b"\n")[2]
            self._write(path, f"#!{self._final}/bin/python\n".encode() + rest, 0o555)
            yield path

    def _generated(self, plan: Plan) -> Iterator[str]:
        for entry in plan.entry_points:
            section: Literal["console", "gui"] = "gui" if entry.section == "gui" else "console"
            script = Script(entry.name, entry.module, entry.attr, section)
            name, data = script.generate(f"{self._final}/bin/python", kind="posix")
            self._write(f"bin/{name}", data, 0o555)
            yield f"bin/{name}"

    def _records(self, plan: Plan, scripts: list[str]) -> None:
        base = f"{plan.site}/{plan.dist_info}"
        self._write(f"{base}/INSTALLER", b"cloche\n", 0o444)
        written = {posixpath.relpath(path, plan.site): path for path in scripts}
        written[f"{plan.dist_info}/INSTALLER"] = f"{base}/INSTALLER"
        text = io.StringIO()
        text.write(plan.record)
        for path, own in written.items():
            data = (self._folder / own).read_bytes()
            text.write(f"{record_field(path)},sha256={_record_hash(data)},{len(data)}\n")
        text.write(f"{record_field(plan.dist_info)}/RECORD,,\n")
        self._write(f"{base}/RECORD", text.getvalue().encode(), 0o444)

    def _check(self, store: Path, keys: list[str]) -> None:
        """See that what was linked is what was unpacked: the store may have been touched meanwhile."""
        touched = look(self._folder, self._tree, self._interpreter.cache_tag)
        if touched:
            raise StoreChangedError(owners(store, keys, touched.changed) or keys)

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
    wanted = set(paths)
    found = []
    for key in keys:
        plan = load_plan(store / key)
        if plan is None or any(made[0] in wanted for made in plan.files) or wanted.intersection(plan.folders):
            found.append(key)
    return found


def _record_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def _digest(path: str, folder: int) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    with os.fdopen(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _copied(path: str, folders: tuple[int, int], mode: int) -> Expected:
    """Copy a file that cannot be linked (another file system, too many links)."""
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folders[0])
    with os.fdopen(source, "rb") as reader:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        target = os.open(path, flags, 0o600, dir_fd=folders[1])
        with os.fdopen(target, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fchmod(target, stat.S_IMODE(mode))
            return _expected(os.fstat(target))
