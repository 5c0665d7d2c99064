"""Private wheels."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from cloche.core._notes import refused
from cloche.exceptions import UserErrorException, told_as

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace


def uploaded(workspace: "Workspace", file: Path, *, exist_ok: bool) -> str:
    """Upload a wheel and return the address that may stand among pip's packages.

    Its name is the one of its own metadata, whatever the file is called. Raises `UserErrorException`
    (`wheel_not_found`, `wheel_exists`, `invalid_wheel`).
    """
    if not file.is_file():
        raise refused("wheel_not_found", f"There is no wheel {file}.")
    wheels = workspace.client.wheels
    with told_as(UserErrorException):
        with file.open("rb") as content:
            digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        known = [one for one in wheels.list() if file.name == one.filename or digest in one.digests]
        if known and not exist_ok:
            todo = "Say exist_ok=True: a name means its newest content, and what was locked keeps its own."
            raise refused("wheel_exists", f"The workspace has {known[0].filename} already.", todo=todo)
        return f"{workspace.client.endpoint.url}{wheels.upload(file).path}"
