"""`pixi.lock`: conda's and pip's packages of one environment in one file, the format of rattler-lock (version 6).

JSON is YAML, and so is every text here that is quoted as JSON; nothing else of YAML is used.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from cloche_shared.contracts.definition import Artefact
from cloche_shared.ports.conda import CondaRecord
from cloche_shared.store.hashing import without_credentials

VERSION = 6


def pixi_lock(
    channels: Sequence[str],
    indexes: Sequence[str],
    subdir: str,
    records: Sequence[CondaRecord],
    artefacts: Sequence[Artefact],
) -> str:
    """Return the text for one environment on one platform; addresses are written without credentials.

    `records` are conda's packages, and `artefacts` everything that is stored, by which each file's hash is known.
    """
    conda = {artefact.name: artefact for artefact in artefacts if artefact.kind == "conda"}
    wheels = [artefact for artefact in artefacts if artefact.kind != "conda"]
    return "\n".join(
        [
            f"version: {VERSION}",
            "environments:",
            "  default:",
            "    channels:",
            *(f"    - url: {_text(_folder(channel))}" for channel in channels),
            *(["    indexes:", *(f"    - {_text(without_credentials(url))}" for url in indexes)] if wheels else []),
            "    packages:",
            f"      {subdir}:",
            *(f"      - conda: {_text(conda[record.name].url)}" for record in records),
            *(f"      - pypi: {_text(wheel.url)}" for wheel in wheels),
            "packages:",
            *(line for record in records for line in _conda(record, conda[record.name])),
            *(line for wheel in wheels for line in _pypi(wheel)),
            "",
        ]
    )


def _conda(record: CondaRecord, artefact: Artefact) -> Iterator[str]:
    yield f"- conda: {_text(artefact.url)}"
    fields: Mapping[str, str] = {
        "sha256": _hex(artefact.digest),
        "md5": record.md5,
        "license": record.license,
    }
    yield from (f"  {name}: {_text(value)}" for name, value in fields.items() if value)
    for name, values in (("depends", record.depends), ("constrains", record.constrains)):
        if values:
            yield f"  {name}:"
            yield from (f"  - {_text(value)}" for value in values)
    yield f"  size: {artefact.size}"


def _pypi(wheel: Artefact) -> Iterator[str]:
    yield f"- pypi: {_text(wheel.url)}"
    yield f"  name: {_text(wheel.name)}"
    yield f"  version: {_text(wheel.version)}"
    # a wheel that was built here has its sdist's address, and so its sdist's hash
    yield f"  sha256: {_text(_hex(wheel.source_digest or wheel.digest))}"


def _folder(url: str) -> str:
    return without_credentials(url).rstrip("/") + "/"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _text(value: str) -> str:
    return json.dumps(value)
