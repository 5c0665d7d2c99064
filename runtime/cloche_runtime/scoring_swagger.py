"""What a scoring script says about its interface: files of the user's, else its decorators' schemas."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Dict

if TYPE_CHECKING:
    from cloche_runtime.scoring_script import Script

_FILES = {"2": ("swagger2.json", "swagger.json"), "3": ("swagger3.json",), "3.1": ("swagger3.1.json",)}
_MAX_BYTES = 1 << 20


def _read(root: str, name: str) -> Any:  # noqa: ANN401  a user's JSON document
    path = os.path.join(root, name)
    if not os.path.isfile(path) or os.path.getsize(path) > _MAX_BYTES:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _plain(value: Any) -> Any:  # noqa: ANN401  samples may hold anything
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError):
        return None


def describe(root: str, script: Script) -> Dict[str, Any]:
    """Return `files` (documents by version) and `schemas` (of the decorators, or None)."""
    files = {}
    for version, names in _FILES.items():
        found = [document for document in (_read(root, name) for name in names) if document is not None]
        if found:
            files[version] = found[0]
    return {"files": files, "schemas": _plain(script.schemas())}
