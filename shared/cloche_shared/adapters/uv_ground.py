"""Wheels that lie beside uv: those without content that stand for what conda brings, and private ones."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.version import InvalidVersion, Version

from cloche_shared.ports.resolver import Distribution, OwnWheel
from cloche_shared.store.wheel_refs import name_and_version


def write_stubs(folder: Path, distributions: Sequence[Distribution]) -> Path:
    """Write the stubs of what conda brings, and the constraints that lead uv to them."""
    lines = []
    for one in distributions:
        name = _stub_name(one)
        if name is not None:
            (folder / name).write_bytes(_stub_wheel(one))
            lines.append(f"{one.name} @ {(folder / name).as_uri()}\n")
    constraints = folder / "conda.txt"
    constraints.write_text("".join(lines), encoding="utf-8")
    return constraints


def place_wheels(folder: Path, wheels: Sequence[OwnWheel]) -> list[str]:
    """Put private wheels under their names, and return the requirements that lead uv to them."""
    lines = []
    for wheel in wheels:
        place = folder / "own" / wheel.filename
        place.parent.mkdir(mode=0o700, exist_ok=True)
        place.symlink_to(wheel.path)
        lines.append(f"{name_and_version(wheel.filename)[0]} @ {place.as_uri()}")
    return lines


def _stub_name(distribution: Distribution) -> str | None:
    """Return the file name of a distribution's stub; None where its version is none that pip knows."""
    try:
        version = Version(distribution.version)
    except InvalidVersion:
        return None
    return f"{distribution.name.replace('-', '_')}-{version}-py3-none-any.whl"


def _stub_wheel(distribution: Distribution) -> bytes:
    """Return a wheel of a distribution's name and version, without content."""
    info = f"{distribution.name.replace('-', '_')}-{Version(distribution.version)}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution.name}\nVersion: {distribution.version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: cloche\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{name},sha256={_hash(text)},{len(text)}" for name, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return raw.getvalue()


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
