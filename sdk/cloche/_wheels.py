"""Private wheels: upload, list, and how definitions refer to them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from cloche import _operations as ops
from cloche._calls import Call, Operation, send, snapshot_of
from cloche._errors import Invalid
from cloche._views import View


class Wheel(View):
    """A private wheel: its newest upload, and all contents that the name had (`digests`, the newest last)."""

    filename: str
    digest: str
    name: str = ""
    version: str = ""
    size: int = 0
    path: str = ""
    digests: list[str] = Field(default_factory=list)

    @property
    def reference(self) -> dict[str, str]:
        """What stands for it in `python.wheels` of a definition."""
        return {"digest": self.digest, "filename": self.filename}


def upload(file: Path) -> Operation[Wheel]:
    """Send a wheel; one that is there already is not sent again."""
    if file.suffix != ".whl":
        raise Invalid(
            "invalid_wheel", f"{file} is not a wheel.", todo="Name a .whl file (`uv build --wheel` makes one)."
        )
    snapshot = yield from snapshot_of(file, follow=True)
    (digest,) = snapshot.paths
    asked = Call("POST", ops.path_of("files", "wheels", "missing"), json={"digests": [digest]})
    if (yield from send(asked)).json()["missing"]:
        content = snapshot.paths[digest]
        yield from send(Call("PUT", ops.path_of("files", "wheels", digest), content=content, timeout=600.0))
    body = {"digest": digest, "filename": file.name}
    answer = yield from send(Call("POST", ops.path_of("wheels"), json=body, once=True, timeout=600.0))
    return Wheel.model_validate({**answer.json(), "created": answer.status == 201})  # noqa: PLR2004 - 201 Created


def references(wheels: Iterable[str | Path | Wheel]) -> Operation[list[dict[str, str]]]:
    """Return what stands for wheels in a definition; files are sent, and names looked up."""
    found: list[dict[str, str]] = []
    for one in wheels:
        wheel = one if isinstance(one, Wheel) else (yield from _known(one))
        found.append(wheel.reference)
    return found


def _known(wanted: str | Path) -> Operation[Wheel]:
    file = Path(wanted)
    if file.is_file():
        return (yield from upload(file))
    return (yield from ops.get(Wheel, "wheels", str(wanted)))


def with_wheels(definition: dict[str, Any], found: list[dict[str, str]]) -> dict[str, Any]:
    """Return a definition with further private wheels."""
    if not found:
        return definition
    python = dict(definition.get("python") or {})
    return {**definition, "python": {**python, "wheels": [*python.get("wheels", []), *found]}}
