"""An environment's definition, its lock, and the artefacts that a lock names.

`Definition` is what a user wrote, `Lock` is what it was resolved to. `e1` names the first, the lock
digest names the second (docs/explanation/environments.md).
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from cloche_shared.contracts.common import Digest, Strict, Variables

Requirement = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
IndexUrl = Annotated[str, StringConstraints(pattern=r"^https?://", max_length=2048)]


class PipOptions(Strict):
    """Options of pip that a definition may set; anything else is refused (`requirement_option`).

    `index_url` replaces the default index, `extra_index_urls` are asked after it, `pre` allows
    pre-releases, `no_binary` / `only_binary` name packages or `:all:`, `require_hashes` demands a
    hash with each requirement.
    """

    index_url: IndexUrl | None = None
    extra_index_urls: tuple[IndexUrl, ...] = Field(default=(), max_length=16)
    pre: bool = False
    no_binary: tuple[str, ...] = Field(default=(), max_length=256)
    only_binary: tuple[str, ...] = Field(default=(), max_length=256)
    require_hashes: bool = False


class PythonSection(Strict):
    """Interpreter and packages. `version` is `3.11` or `3.11.7`; None means the server's default.

    `pip` holds PEP 508 requirements, each optionally followed by ` --hash=sha256:…`.
    """

    version: Annotated[str, StringConstraints(pattern=r"^3\.\d{1,2}(\.\d{1,3})?$")] | None = None
    pip: tuple[Requirement, ...] = Field(default=(), max_length=2000)
    pip_options: PipOptions = PipOptions()


class Definition(Strict):
    """What a user wrote. Variables belong to the version, not to the hash."""

    python: PythonSection = PythonSection()
    variables: Variables = Field(default_factory=dict)


class Artefact(Strict):
    """One file that a lock names. `url` has no credentials; `digest` is that of the file's bytes.

    An artefact that was built from an sdist has kind `built-wheel`; its url names the sdist and
    `source_digest` the sdist's digest.
    """

    kind: Literal["wheel", "built-wheel"]
    name: str
    version: str
    filename: str
    url: str
    digest: Digest
    size: int = Field(ge=0)
    source_digest: Digest | None = None


class Lock(Strict):
    """The exact files of an environment, in the order in which they are installed (by name).

    `definition_hash` is the `e1:…` of what was asked, `python` the interpreter's full version,
    `platform` a tag such as `linux-x86_64`, `pylock` the `pylock.toml` text (PEP 751).
    """

    definition_hash: str
    python: str
    platform: str
    artefacts: tuple[Artefact, ...]
    pylock: str
