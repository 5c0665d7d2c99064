"""Snapshots as they are submitted: complete, in canonical form, within limits, with their script."""

import difflib

from cloche_shared.contracts.files import Manifest
from cloche_shared.errors import Invalid, NotFound, TooLarge
from cloche_shared.ports.blobs import Blobs
from cloche_shared.store.hashing import manifest_digest
from cloche_shared.store.paths import check_manifest, check_sizes

SHOWN = 20
MAX_FILES = 10_000


async def check_snapshot(
    space: Blobs, digest: str, script: str, area: str, max_bytes: int, max_files: int = MAX_FILES
) -> Manifest:
    """Return the manifest of a snapshot whose every file is there; `area` names where files are sent.

    Raises `Invalid` (`snapshot_incomplete`, `invalid_manifest`, `script_not_found`, `size_mismatch`, `unsafe_path`) and
    `TooLarge` (`snapshot_too_large`).
    """
    try:
        manifest = Manifest.model_validate_json(await space.read_bytes(digest))
    except NotFound as error:
        raise _incomplete([digest], area) from error
    except ValueError as error:
        raise Invalid("invalid_manifest", "The snapshot's digest names no manifest.") from error
    if manifest_digest(manifest) != digest:
        raise Invalid("invalid_manifest", "The snapshot's manifest is not in canonical form.")
    try:
        check_manifest(manifest, max_files=max_files, max_bytes=max_bytes)
    except TooLarge as error:
        raise TooLarge("snapshot_too_large", error.what, why=error.why, todo=error.todo) from error
    paths = {entry.path for entry in manifest.files}
    if script not in paths:
        near = difflib.get_close_matches(script, paths, n=5, cutoff=0.4) or sorted(paths)[:SHOWN]
        raise Invalid(
            "script_not_found",
            f"The snapshot has no file {script!r}.",
            why=f"It has: {', '.join(near) or 'no files'}.",
            todo="Name a file inside the folder that is sent.",
        )
    missing = check_sizes(manifest, await space.sizes({entry.digest for entry in manifest.files}))
    if missing:
        raise _incomplete(missing, area)
    return manifest


def _incomplete(digests: list[str], area: str) -> Invalid:
    return Invalid(
        "snapshot_incomplete",
        "Files of the snapshot were not uploaded.",
        todo=f"Send them to /api/v1/files/{area} first.",
        extra={"missing": digests[:100]},
    )
