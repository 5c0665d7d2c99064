"""What names things: canonical JSON and the digests over it.

`definition_hash` names what was asked (`e1`), `lock_digest` and `manifest_digest` name bytes. The
scheme never changes under its name: another scheme is `e2` (docs/reference/hash.md).
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit, urlunsplit

import orjson
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from cloche_shared.contracts.definition import (
    CondaSection,
    Definition,
    DockerSection,
    Lock,
    PipOptions,
    PythonSection,
    SparkSection,
)
from cloche_shared.contracts.files import Manifest
from cloche_shared.definitions.conda import canonical_channel, canonical_spec
from cloche_shared.store.requirements import normalise_requirement

Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | bool | None

SCHEME = "e1"
RECIPE = 1
"""Version of how an environment is made from a lock; another recipe means other bytes."""
_NO_CONDA, _NO_SPARK, _NO_DOCKER = CondaSection(), SparkSection(), DockerSection()
"""Sections that say nothing: they are no part of the document."""


def _nfc(value: object) -> object:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, Mapping):
        return {unicodedata.normalize("NFC", str(key)): _nfc(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_nfc(item) for item in value]
    return value


def canonical_json(value: Json) -> bytes:
    """Return the one JSON text of a value: sorted keys, no whitespace, UTF-8, NFC, no floats."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    # what is ASCII is NFC already
    return text if text.isascii() else orjson.dumps(_nfc(value), option=orjson.OPT_SORT_KEYS)


def sha256_digest(data: bytes) -> str:
    """Return `sha256:<hex>` of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def without_credentials(url: str) -> str:
    """Return a URL without user name and password; scheme and host in lower case."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    return urlunsplit((parts.scheme.lower(), host, parts.path, parts.query, parts.fragment))


def _index(url: str) -> str:
    return without_credentials(url).rstrip("/")


def _names(names: Sequence[str]) -> list[str]:
    return sorted({name if name.startswith(":") else canonicalize_name(name) for name in names})


def _options(options: PipOptions) -> dict[str, Json]:
    document: dict[str, Json] = {
        "extra_index_urls": [_index(url) for url in options.extra_index_urls],
        "index_url": None if options.index_url is None else _index(options.index_url),
        "no_binary": _names(options.no_binary),
        "only_binary": _names(options.only_binary),
        "pre": options.pre,
        "require_hashes": options.require_hashes,
    }
    if options.package_indexes:
        named = options.package_indexes.items()
        document["package_indexes"] = {canonicalize_name(name): _index(url) for name, url in named}
    return document


def hashed_document(definition: Definition, *, platform: str, default_python: str) -> Json:
    """Return the document that `e1` is the hash of."""
    section = definition.python
    asked = definition.docker.platform if definition.docker else None
    return {
        "pip": sorted({normalise_requirement(line) for line in section.pip}),
        "pip_options": _options(section.pip_options),
        "platform": asked or platform,
        "python": section.version or default_python,
        "recipe": RECIPE,
        **dict(_further(definition)),
    }


def _further(definition: Definition) -> Iterator[tuple[str, Json]]:
    """Yield the members that stand in the document only where the definition says something of them."""
    yield from _python_members(definition.python)
    yield from _image_members(definition.docker or _NO_DOCKER)
    if definition.apt:
        yield "apt", sorted(set(definition.apt))
    if definition.build_variables:
        yield "build_variables", dict(definition.build_variables)
    if definition.spark is not None and definition.spark != _NO_SPARK:
        yield "spark", _spark(definition.spark)


def _python_members(section: PythonSection) -> Iterator[tuple[str, Json]]:
    if section.conda is not None and section.conda != _NO_CONDA:
        yield "conda", _conda(section.conda)
    if section.user_managed:
        yield "interpreter", section.interpreter_path or "python"
    if section.wheels:
        yield "wheels", sorted({wheel.digest for wheel in section.wheels})


def _conda(section: CondaSection) -> Json:
    document: dict[str, Json] = {
        "channels": list(dict.fromkeys(canonical_channel(channel) for channel in section.channels)),
        "packages": sorted({canonical_spec(spec) for spec in section.packages}),
    }
    if section.base_environment is not None:
        document["base_environment"] = section.base_environment
    return document


def _image_members(docker: DockerSection) -> Iterator[tuple[str, Json]]:
    if docker.base_image is not None:
        yield "base_image", docker.base_image
    if docker.registry is not None:
        yield "registry", docker.registry.address.lower()
    if docker.dockerfile is not None:
        yield "dockerfile", docker.dockerfile
    if docker.build_context is not None:
        context = docker.build_context
        yield "build_context", {"digest": context.digest, "dockerfile": context.dockerfile_path}
    if docker.gpu_support:
        yield "gpu", True


def _spark(section: SparkSection) -> Json:
    return {
        "packages": sorted({f"{one.group}:{one.artifact}:{one.version}" for one in section.packages}),
        "precache": section.precache_packages,
        "repositories": [_index(url) for url in section.repositories],
    }


def definition_hash(definition: Definition, *, platform: str, default_python: str = "3.11") -> str:
    """Return `e1:<64 hex>`: the hash of what was asked, for a platform such as `linux-x86_64`.

    `default_python` stands for a version that the definition leaves open. Name, tags and variables
    are not in it. Raises `Invalid` (code `invalid_requirement`, `requirement_option`), and `ValueError` for
    conda specifications that no check has seen.
    """
    document = hashed_document(definition, platform=platform, default_python=default_python)
    return f"{SCHEME}:{hashlib.sha256(canonical_json(document)).hexdigest()}"


def _model_json(model: BaseModel) -> bytes:
    return canonical_json(model.model_dump(mode="json"))


def lock_bytes(lock: Lock) -> bytes:
    """Return the lock's canonical JSON, which is how it is stored."""
    return _model_json(lock)


def lock_digest(lock: Lock) -> str:
    """Return `sha256:<hex>` of the lock's canonical JSON: the name of exactly these bytes."""
    return sha256_digest(lock_bytes(lock))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the canonical JSON of a manifest, its files sorted by path."""
    files = sorted(manifest.files, key=lambda entry: entry.path)
    return canonical_json({"files": [entry.model_dump(mode="json") for entry in files]})


def manifest_digest(manifest: Manifest) -> str:
    """Return `sha256:<hex>` of `manifest_bytes`."""
    return sha256_digest(manifest_bytes(manifest))
