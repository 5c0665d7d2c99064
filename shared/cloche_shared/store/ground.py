"""Below pip's packages lies what conda chose: how uv is told of it, and what it says where that does not fit.

Each Python distribution that conda brings is shown to uv as a wheel without content that is the only one of
its name. So what pip brings is chosen to fit it, never replaces it, and never comes a second time.
"""

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Collection, Sequence

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from cloche_shared.errors import Failed
from cloche_shared.ports.resolver import Distribution

_BLOCK = re.compile(r"(?m)^\[\[packages\]\]$")
_NAME = re.compile(r'(?m)^name = "([^"]+)"$')


def stub_name(distribution: Distribution) -> str | None:
    """Return the file name of a distribution's stub; None where its version is none that pip knows."""
    try:
        version = Version(distribution.version)
    except InvalidVersion:
        return None
    return f"{distribution.name.replace('-', '_')}-{version}-py3-none-any.whl"


def stub_wheel(distribution: Distribution) -> bytes:
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


def without_ground(pylock: str, names: Collection[str]) -> str:
    """Return a `pylock.toml` without the packages that conda brings."""
    head, *blocks = _BLOCK.split(pylock)
    kept = [block for block in blocks if not ((name := _NAME.search(block)) and canonicalize_name(name[1]) in names)]
    return "[[packages]]".join([head, *kept]).rstrip() + "\n"


def ground_clash(
    lines: Sequence[str], requirements: Sequence[str], distributions: Sequence[Distribution]
) -> Failed | None:
    """Return the error when pip's packages need another version of something than conda chose."""
    text = re.sub(r"\s+", " ", " ".join(lines))
    if "unsatisfiable" not in text and "cannot be used" not in text:
        return None
    found = [
        one for one in distributions if re.search(rf"(?:only|no versions? of) {re.escape(one.name)}(?![\w.-])", text)
    ]
    if not found:
        return None
    first = found[0]
    named = [line for line in requirements if re.search(rf"(?<![\w.-]){_stem(line)}(?![\w-])", text)]
    return Failed(
        "solver_conflict",
        f"pip's packages need another {first.name} than the {first.version} that conda chose"
        + (f": {', '.join(named)}." if named else "."),
        why=text[text.find("Because ") :][:2000].strip(),
        todo=f"Pin {first.package} among the conda packages to a version that fits, or take it from one side alone.",
        extra={"package": first.name, "requirements": named},
    )


def _stem(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.escape(canonicalize_name(match[0])) if match else r"\b\B"
