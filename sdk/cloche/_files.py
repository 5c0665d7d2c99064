"""Folders as snapshots: which files belong to one, their digests, and its manifest.

Ignore files are `.clocheignore`, else `.amlignore`, else `.gitignore`, in the folder's root, with
gitignore's patterns. Version control, caches, virtual environments and Cloche's own data folders, which
hold keys, are never sent.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cloche._errors import Invalid, NotFound, TooLarge
from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.store.hashing import manifest_bytes, sha256_digest
from cloche_shared.store.paths import check_path, path_fault
from cloche_shared.store.requirements import inline_includes

IGNORE_FILES = (".clocheignore", ".amlignore", ".gitignore")
NEVER_FOLDERS = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".ipynb_checkpoints", ".cloche", ".mypy_cache", ".tox"}
)
NEVER_ENDINGS = (".pyc", ".pyo")
DATA_FOLDER = ("identity.json", "token")
"""What a data folder of Cloche holds."""
MAX_FILES = 10_000
MAX_BYTES = 300 * 1024 * 1024
CHUNK = 1024 * 1024
_log = logging.getLogger("cloche")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder as it was: manifest, its canonical bytes and digest, and where each blob's bytes lie."""

    manifest: Manifest
    content: bytes
    digest: str
    paths: dict[str, Path]


class Ignore:
    """What is left out: what never belongs to a snapshot, `without`, and what the folder's ignore file says."""

    def __init__(self, lines: list[str] | None = None, without: Collection[str] = ()) -> None:
        self._without = without
        self.follows = False
        """Whether links that lead out of the folder are followed."""
        self._says: Callable[[str], bool] = lambda _path: False
        if lines is not None:
            import pathspec  # noqa: PLC0415 - only where a folder has an ignore file

            self._says = pathspec.GitIgnoreSpec.from_lines(lines).match_file

    def __call__(self, path: str, *, folder: bool) -> bool:
        """Whether a path (relative, with `/`) is left out."""
        name = path.rpartition("/")[2]
        if folder:
            return name in NEVER_FOLDERS or path in self._without or self._says(f"{path}/")
        return name.endswith(NEVER_ENDINGS) or self._says(path)


def take(folder: Path, cache: "DigestCache", without: Collection[str] = (), *, follow: bool = False) -> Snapshot:
    """Return the snapshot of a folder, `without` some folders at its top.

    Links that lead out of the folder are left out and told of, unless they are to be followed.

    Raises `NotFound` (`source_not_found`), `TooLarge` (`snapshot_too_large`), `Invalid` (`unsafe_path`, and
    `source_not_allowed` for a data folder of Cloche).
    """
    if not folder.is_dir():
        raise NotFound("source_not_found", f"There is no folder {folder}.", todo="Name a folder that exists.")
    if _is_data_folder(folder):
        raise Invalid(
            "source_not_allowed",
            f"{folder} is a data folder of Cloche.",
            why="It holds keys, which must not travel.",
            todo="Keep the script in a folder of its own.",
        )
    entries: list[FileEntry] = []
    paths: dict[str, Path] = {}
    total = 0
    for name, path in sorted(_walk(folder, _rules(folder, without, follow=follow))):
        digest, size, executable = cache.digest(path)
        total += size
        if len(entries) >= MAX_FILES or total > MAX_BYTES:
            raise TooLarge(
                "snapshot_too_large",
                f"{folder} has more than {MAX_FILES:,} files or {MAX_BYTES // 1024**2} MiB.",
                todo="Leave data, models and environments out with a .clocheignore file.",
            )
        entries.append(_entry(name, digest, size, executable=executable))
        paths[digest] = path
    return _snapshot(entries, paths)


def take_one(path: Path, cache: "DigestCache", without: Collection[str] = (), *, follow: bool = False) -> Snapshot:
    """Return the snapshot that holds one file, or a folder's files."""
    if path.is_dir():
        return take(path, cache, without, follow=follow)
    if not path.is_file():
        raise NotFound("source_not_found", f"There is no file {path}.", todo="Name a file that exists.")
    digest, size, executable = cache.digest(path)
    return _snapshot([_entry(path.name, digest, size, executable=executable)], {digest: path})


def joined(snapshot: Snapshot, place: str, data: Snapshot, kept: Collection[str] = ()) -> Snapshot:
    """Return a snapshot with the files of another one below the folder `place`, which is in none of those `kept`.

    Raises `Invalid` (`unsafe_path`, `place_taken`), `TooLarge` (`snapshot_too_large`).
    """
    folder = check_path(place)
    if folder.partition("/")[0] in kept or any(
        one.path == folder or one.path.startswith(f"{folder}/") for one in snapshot.manifest.files
    ):
        raise Invalid(
            "place_taken",
            f"{folder} is taken, by the source or by what the run leaves.",
            todo="Choose another place for the data, or rename it.",
        )
    moved = [one.model_copy(update={"path": f"{folder}/{one.path}"}) for one in data.manifest.files]
    entries = sorted([*snapshot.manifest.files, *moved], key=lambda one: one.path)
    if len(entries) > MAX_FILES or sum(one.size for one in entries) > MAX_BYTES:
        raise TooLarge(
            "snapshot_too_large",
            f"Source and data have more than {MAX_FILES:,} files or {MAX_BYTES // 1024**2} MiB.",
            todo="Send less along, or let the script fetch it.",
        )
    return _snapshot(entries, {**snapshot.paths, **data.paths})


def _snapshot(entries: list[FileEntry], paths: dict[str, Path]) -> Snapshot:
    manifest = Manifest(files=tuple(entries))
    content = manifest_bytes(manifest)
    return Snapshot(manifest, content, sha256_digest(content), paths)


def _entry(name: str, digest: str, size: int, *, executable: bool) -> FileEntry:
    fault = path_fault(name)
    if fault is not None:
        raise Invalid(
            "unsafe_path",
            f"The file name {name!r} cannot be sent.",
            why=f"{fault.capitalize()}.",
            todo="Rename the file, or leave it out with a .clocheignore file.",
        )
    return FileEntry(path=name, digest=digest, size=size, executable=executable)


def _rules(folder: Path, without: Collection[str], *, follow: bool) -> Ignore:
    found = _ignoring(folder, without)
    found.follows = follow
    return found


def _ignoring(folder: Path, without: Collection[str]) -> Ignore:
    for name in IGNORE_FILES:
        path = folder / name
        if path.is_file():
            return Ignore(path.read_text(errors="replace").splitlines(), without)
    return Ignore(without=without)


def _walk(root: Path, ignored: Ignore, below: str = "") -> Iterator[tuple[str, Path]]:
    with os.scandir(root / below) as found:
        for item in found:
            name = f"{below}{item.name}"
            if item.is_dir(follow_symlinks=False):
                if not ignored(name, folder=True) and not _is_data_folder(Path(item.path)):
                    yield from _walk(root, ignored, f"{name}/")
            elif not ignored(name, folder=False) and _is_sent(root, name, item, follows=ignored.follows):
                yield name, Path(item.path)


def _is_data_folder(folder: Path) -> bool:
    found = all((folder / name).exists() for name in DATA_FOLDER)
    if found:
        _log.warning("%s is not sent: it is a data folder of Cloche, which holds keys.", ascii(folder.name))
    return found


def _is_sent(root: Path, name: str, item: "os.DirEntry[str]", *, follows: bool) -> bool:
    """Whether an entry is a file, or a link to one inside the folder; what else there is is told of and not sent."""
    anywhere = follows or not item.is_symlink()
    if item.is_file() and (anywhere or Path(item.path).resolve().is_relative_to(root.resolve())):
        return True
    kind = "a link to a folder, to nothing, or out of the folder" if item.is_symlink() else "no regular file"
    _log.warning("%s is not sent: it is %s.", name if name.isprintable() else ascii(name), kind)
    return False


class DigestCache:
    """Digests of files by path, size, inode and time of change, so that what did not change is not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], str] = {}

    def digest(self, path: Path) -> tuple[str, int, bool]:
        """Return digest, size and whether the file is executable."""
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_ino, stat.st_mtime_ns)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _digest(path)
        return found, stat.st_size, bool(stat.st_mode & 0o100)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def requirements_text(path: Path) -> str:
    """Return a requirements file with the files that it names (`-r`, `-c`) written into it.

    Raises `NotFound` (`requirements_not_found`), `Invalid` (`requirement_option`, `requirements_not_text`).
    """

    def read(name: str) -> str:
        found = path.parent / name
        try:
            return found.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise Invalid(
                "requirements_not_text", f"{found} is not in UTF-8.", why=str(error), todo="Save it as UTF-8."
            ) from error
        except OSError as error:
            raise NotFound("requirements_not_found", f"There is no readable file {found}.", why=str(error)) from error

    return inline_includes(path.name, read)


def safe_join(folder: Path, name: str) -> Path:
    """Return a path below a folder. Raises `Invalid` (`unsafe_path`)."""
    return folder / check_path(name)
