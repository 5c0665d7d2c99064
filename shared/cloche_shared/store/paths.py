"""Relative paths that cannot leave their tree."""

import re
from collections.abc import Callable, Mapping

from cloche_shared.contracts.files import Manifest
from cloche_shared.errors import Invalid, TooLarge, Violation

MAX_DEPTH = 32
MAX_LENGTH = 1024
MAX_PART_BYTES = 255

_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


_FAULTS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda path: not path or len(path) > MAX_LENGTH, "it is empty or too long"),
    (lambda path: bool(_CONTROL.search(path)) or "\\" in path, "it holds a control character or a backslash"),
    (lambda path: path.startswith("/") or bool(_DRIVE.match(path)), "it is absolute"),
    (lambda path: path.count("/") >= MAX_DEPTH, f"it is deeper than {MAX_DEPTH} folders"),
    (lambda path: any(part in {"", ".", ".."} for part in path.split("/")), "it has an empty part, `.` or `..`"),
    (
        lambda path: any(len(part.encode()) > MAX_PART_BYTES for part in path.split("/")),
        "a part of it is longer than 255 bytes",
    ),
)


def path_fault(path: str) -> str | None:
    """Return what is wrong with a relative POSIX path, or None when it stays inside its tree."""
    return next((fault for is_so, fault in _FAULTS if is_so(path)), None)


def check_path(path: str, *, pointer: str = "/path") -> str:
    """Return a relative POSIX path as it is. Raises `Invalid` (code `unsafe_path`)."""
    fault = path_fault(path)
    if fault is not None:
        raise _unsafe([Violation(pointer, "unsafe_path", f"The path cannot be used: {fault}.")])
    return path


def _unsafe(violations: list[Violation]) -> Invalid:
    return Invalid(
        "unsafe_path",
        "A path in the tree cannot be used.",
        why=violations[0].detail,
        todo="Use relative paths with forward slashes that stay inside the folder.",
        violations=violations,
    )


def colliding(paths: list[str]) -> list[str]:
    """Return the paths that equal an earlier one but for letter case, or lie below an earlier file."""
    seen: set[str] = set()
    found = []
    for path in paths:
        key = path.casefold()
        if key in seen:
            found.append(path)
        seen.add(key)
    return found + [path for path in paths if _below_a_file(path.casefold(), seen)]


def _below_a_file(key: str, files: set[str]) -> bool:
    parts = key.split("/")
    return any("/".join(parts[:count]) in files for count in range(1, len(parts)))


def check_sizes(manifest: Manifest, sizes: Mapping[str, int]) -> list[str]:
    """Return the digests of files that are not in `sizes`: how large each one is, as far as it is here.

    Raises `Invalid` (code `size_mismatch`) where a file was said to be of another size than it is, so
    that no limit on sizes can be passed by a small number.
    """
    wrong = [
        Violation(f"/files/{number}/size", "size_mismatch", f"The file has {sizes[entry.digest]} bytes.")
        for number, entry in enumerate(manifest.files)
        if sizes.get(entry.digest, entry.size) != entry.size
    ]
    if wrong:
        raise Invalid(
            "size_mismatch",
            f"{len(wrong)} files of the tree do not have the size that its manifest says.",
            why=wrong[0].detail,
            todo="Write each file's true size into the manifest.",
            violations=wrong[:100],
        )
    return sorted({entry.digest for entry in manifest.files if entry.digest not in sizes})


def check_manifest(manifest: Manifest, *, max_files: int = 100_000, max_bytes: int | None = None) -> None:
    """Refuse a tree that could not be written as it is.

    Raises `Invalid` (code `unsafe_path`) or `TooLarge` (code `too_large`).
    """
    files = manifest.files
    total = sum(entry.size for entry in files)
    if len(files) > max_files or (max_bytes is not None and total > max_bytes):
        raise TooLarge(
            "too_large",
            f"The tree has {len(files)} files and {total} bytes.",
            why=f"At most {max_files} files" + (f" and {max_bytes} bytes." if max_bytes is not None else "."),
            todo="Leave out what is not needed with a .clocheignore file.",
        )
    found = [
        Violation(f"/files/{number}/path", "unsafe_path", f"The path cannot be used: {fault}.")
        for number, entry in enumerate(files)
        if (fault := path_fault(entry.path))
    ]
    if not found:
        found = [
            Violation("/files", "unsafe_path", f"{path!r} collides with another path.")
            for path in colliding([entry.path for entry in files])[:100]
        ]
    if found:
        raise _unsafe(found)
