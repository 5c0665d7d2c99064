"""Files that came inside a message become a snapshot like any other."""

from collections.abc import Mapping

from cloche_shared.contracts.files import FileEntry, Manifest
from cloche_shared.ports.blobs import Blobs
from cloche_shared.store.hashing import manifest_bytes
from cloche_shared.store.paths import check_manifest


async def put_tree(space: Blobs, files: Mapping[str, bytes], executable: frozenset[str] = frozenset()) -> str:
    """Store files by path, then their manifest, whose digest is returned. Raises `Invalid` (`unsafe_path`)."""
    nowhere = "sha256:" + "0" * 64
    check_manifest(Manifest(files=tuple(FileEntry(path=path, digest=nowhere, size=0) for path in sorted(files))))
    entries = []
    for path in sorted(files):
        blob = await space.put_bytes(files[path])
        entries.append(FileEntry(path=path, digest=blob.digest, size=blob.size, executable=path in executable))
    return (await space.put_bytes(manifest_bytes(Manifest(files=tuple(entries))))).digest


async def put_texts(space: Blobs, files: Mapping[str, str]) -> str:
    """Store texts by path as `put_tree` does."""
    return await put_tree(space, {path: text.encode() for path, text in files.items()})
