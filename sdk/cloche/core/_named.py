"""What a user gave names to that only this layer knows: compute targets and datastores of a workspace.

They lie in the user's data folder (`CLOCHE_HOME/core`), one small file for each installation and project, and hold
no secrets.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cloche._home import made
from cloche.core._notes import refused
from cloche.exceptions import AzureMLException

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


class Named:
    """The names of one workspace."""

    def __init__(self, home: Path, installation: str, project: str) -> None:
        self.folder = home / "core" / f"{installation}-{project}"
        self._home = home
        self._file = self.folder / "names.json"

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return what is named, by name; `kind` is `targets` or `datastores`."""
        found = self._read().get(kind)
        return dict(found) if isinstance(found, dict) else {}

    def put(self, kind: str, name: str, said: Mapping[str, object]) -> None:
        """Name something, in place of what had the name. Raises `AzureMLException` (`invalid_name`)."""
        if not NAME.fullmatch(name):
            todo = "Begin with a letter; letters, digits, dashes and underscores follow, 63 at most."
            raise refused("invalid_name", f"{name[:80]!r} cannot be a name.", todo=todo, kind=AzureMLException)
        self._write(kind, {**self.all(kind), name: dict(said)})

    def drop(self, kind: str, name: str) -> None:
        """Forget a name."""
        self._write(kind, {key: one for key, one in self.all(kind).items() if key != name})

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, kind: str, said: Mapping[str, object]) -> None:
        made(self._home)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps({**self._read(), kind: said}, indent=1))
        temporary.replace(self._file)
