"""Trees of files by content: snapshots, outputs, models."""

from typing import Annotated

from pydantic import Field, StringConstraints

from cloche_shared.contracts.common import Digest, Strict

RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""A POSIX path inside a tree; `cloche_shared.store.paths.check_path` refuses what could leave it."""


class FileEntry(Strict):
    """One regular file: size in bytes, digest of its content, and whether it is executable."""

    path: RelativePath
    digest: Digest
    size: int = Field(ge=0)
    executable: bool = False


class Manifest(Strict):
    """A tree, sorted by path. Its digest is that of its canonical JSON."""

    files: tuple[FileEntry, ...] = Field(default=(), max_length=100_000)
