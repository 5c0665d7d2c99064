"""A conda environment as it is on this machine, by its own records; no conda is needed.

`conda-meta/*.json` says which packages conda put there, `*.dist-info` which ones pip did.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from packaging.utils import canonicalize_name

from cloche.formats.reading import Imported, Note, invalid, kept_packages, requirements_of
from cloche_shared.contracts.definition import CondaSection, Definition, PythonSection

WHAT: Final = "The conda environment cannot be read."
_CONDA_ONLY: Final = frozenset(("python",))


def of_records(records: Iterable[str], metadata: Iterable[tuple[str, str]]) -> Imported:
    """Return what an environment has: `records` are the texts of conda-meta, `metadata` (installer, METADATA).

    Versions are pinned, builds are left out. Raises `Invalid` (`invalid_conda_environment`).
    """
    packages = sorted((_record(text) for text in records), key=lambda one: str(one["name"]))
    if not packages:
        raise invalid("invalid_conda_environment", WHAT, "/conda-meta", "There are no records of conda packages.")
    version = next((str(one["version"]) for one in packages if one["name"] == "python"), None)
    channels = tuple(dict.fromkeys(_channel(one) for one in packages if _channel(one)))
    conda = tuple(f"{one['name']}=={one['version']}" for one in packages if one["name"] not in _CONDA_ONLY)
    lines = sorted(set(_pip_lines(metadata)))
    pip, _ = requirements_of(lines, "/pip")
    notes = [Note("/conda-meta", "Versions are kept, builds are left out.")]
    section = PythonSection(
        version=version,
        pip=pip,
        conda=CondaSection(packages=conda, channels=channels or ("conda-forge",)) if conda else None,
    )
    return Imported(Definition(python=section), notes=(*notes, *kept_packages(pip)))


def _record(text: str) -> Mapping[str, Any]:
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("name"), str) or "version" not in record:
        raise invalid("invalid_conda_environment", WHAT, "/conda-meta", "A record has no name and version.")
    return record


def _channel(record: Mapping[str, Any]) -> str:
    """Return a channel's name, or its address without platform where it is none of the well-known hosts."""
    channel = str(record.get("channel") or "").rstrip("/")
    subdir = str(record.get("subdir") or "")
    channel = channel.removesuffix(f"/{subdir}") if subdir else channel
    for host in ("https://conda.anaconda.org/", "https://repo.anaconda.com/"):
        if channel.startswith(host):
            return channel.removeprefix(host)
    return channel if "@" not in channel else ""


def _pip_lines(metadata: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Yield pins of what pip installed; conda writes `conda` as the installer of what it did."""
    for installer, text in metadata:
        if installer.strip() == "conda":
            continue
        fields = dict(line.split(": ", 1) for line in text.split("\n\n", 1)[0].splitlines() if ": " in line)
        if "Name" in fields and "Version" in fields:
            yield f"{canonicalize_name(fields['Name'])}=={fields['Version']}"
