"""Private wheels."""

from pathlib import Path
from typing import TYPE_CHECKING

from cloche.core._notes import refused, unavailable

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace


def uploaded(workspace: "Workspace", file: Path, *, exist_ok: bool) -> str:
    """Upload a wheel and return its address. Raises `UserErrorException`."""
    del workspace, exist_ok
    if not file.is_file():
        raise refused("wheel_not_found", f"There is no wheel {file}.")
    raise unavailable("A private wheel", "This server does not keep private wheels yet.")
