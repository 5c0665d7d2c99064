"""An environment's definition, its lock, and the artefacts that a lock names.

`Definition` is what a user wrote, `Lock` is what it was resolved to. `e1` names the first, the lock
digest names the second (docs/explanation/environments.md). What each attribute does, and which are
refused until they can take effect, says docs/reference/definition.md.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from cloche_shared.contracts.common import Digest, Name, Strict, Variables

Requirement = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
IndexUrl = Annotated[str, StringConstraints(pattern=r"^https?://", max_length=2048)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""A name or address of somebody else's; `cloche_shared.definitions.rules` checks it."""
Platform = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,16}-[a-z0-9_]{1,32}$")]
"""A platform such as `linux-x86_64`."""


def _empty(value: object) -> bool:
    """Whether a value says nothing: such members are left out of JSON."""
    return not value


class PipOptions(Strict):
    """Options of pip that a definition may set; anything else is refused (`requirement_option`).

    `index_url` replaces the default index, `extra_index_urls` are asked after it, `pre` allows
    pre-releases, `no_binary` / `only_binary` name packages or `:all:`, `require_hashes` demands a
    hash with each requirement, `package_indexes` names the one index of a package.
    """

    index_url: IndexUrl | None = None
    extra_index_urls: tuple[IndexUrl, ...] = Field(default=(), max_length=16)
    pre: bool = False
    no_binary: tuple[str, ...] = Field(default=(), max_length=256)
    only_binary: tuple[str, ...] = Field(default=(), max_length=256)
    require_hashes: bool = False
    package_indexes: Annotated[dict[str, IndexUrl], Field(max_length=256)] = Field(
        default_factory=dict, exclude_if=_empty
    )


class CondaSection(Strict):
    """Packages from conda channels, asked in the order of `channels`; the first that has one decides.

    `packages` are match specifications (`numpy=1.26`, `conda-forge::blas>=2`). `base_environment` names
    an environment to start from. Python itself stands in `PythonSection.version`, unless a range is meant.
    """

    packages: tuple[Requirement, ...] = Field(default=(), max_length=2000)
    channels: tuple[Text, ...] = Field(default=("conda-forge",), max_length=16)
    base_environment: Text | None = None


class WheelRef(Strict):
    """A private wheel that was uploaded: its content, and the file name under which it came."""

    digest: Digest
    filename: Text


class PythonSection(Strict):
    """Interpreter and packages. `version` is `3.11` or `3.11.7`; None means the server's default.

    `pip` holds PEP 508 requirements, each optionally followed by ` --hash=sha256:…`. With `user_managed`
    nothing is installed: what `interpreter_path` starts (`python` where it is None) has everything.
    """

    version: Annotated[str, StringConstraints(pattern=r"^3\.\d{1,2}(\.\d{1,3})?$")] | None = None
    pip: tuple[Requirement, ...] = Field(default=(), max_length=2000)
    pip_options: PipOptions = PipOptions()
    conda: CondaSection | None = Field(default=None, exclude_if=_empty)
    wheels: tuple[WheelRef, ...] = Field(default=(), max_length=256, exclude_if=_empty)
    user_managed: bool = Field(default=False, exclude_if=_empty)
    interpreter_path: Text | None = Field(default=None, exclude_if=_empty)


class ContainerRegistry(Strict):
    """Where a base image is pulled from. User name and password are secrets of the project, here only named."""

    address: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    username_secret: Name | None = None
    password_secret: Name | None = None


class BuildContext(Strict):
    """A folder that was uploaded (its manifest's digest), and the Dockerfile in it."""

    digest: Digest
    dockerfile_path: Text = "Dockerfile"


class ContainerArguments(Strict):
    """What may be asked of the container of a run: CPUs (`1.5`), memory (`4g`), limits (`nofile` to `1024:4096`)."""

    cpus: Annotated[str, StringConstraints(pattern=r"^\d{1,4}(\.\d{1,3})?$")] | None = None
    memory: Annotated[str, StringConstraints(pattern=r"^\d{1,12}[bkmg]?$")] | None = None
    ulimits: Annotated[
        dict[
            Annotated[str, StringConstraints(pattern=r"^[a-z]{2,16}$")],
            Annotated[str, StringConstraints(pattern=r"^\d{1,18}(:\d{1,18})?$")],
        ],
        Field(max_length=16),
    ] = Field(default_factory=dict)


class DockerSection(Strict):
    """Image and container. One of `base_image`, `dockerfile` and `build_context` at most.

    `enabled` makes a run on the target `local` a container, `gpu_support` takes the base image for GPUs
    where none is named, `shm_size` is that of /dev/shm (`2g`), `platform` what the image is made for.
    """

    enabled: bool = False
    base_image: Text | None = None
    dockerfile: Annotated[str, StringConstraints(min_length=1, max_length=102_400)] | None = None
    build_context: BuildContext | None = None
    registry: ContainerRegistry | None = None
    gpu_support: bool = False
    shm_size: Annotated[str, StringConstraints(pattern=r"^\d{1,12}[bkmg]?$")] | None = None
    arguments: ContainerArguments = ContainerArguments()
    platform: Platform | None = None


class SparkPackage(Strict):
    """A library by its Maven coordinates."""

    group: Text
    artifact: Text
    version: Text


class SparkSection(Strict):
    """Libraries of Spark, from `repositories` in their order; `precache_packages` puts them into the image."""

    repositories: tuple[Text, ...] = Field(default=(), max_length=64)
    packages: tuple[SparkPackage, ...] = Field(default=(), max_length=256)
    precache_packages: bool = True


class MavenLibrary(Strict):
    """A Maven library of a Databricks cluster."""

    coordinates: Text
    repo: Text | None = None
    exclusions: tuple[Text, ...] = Field(default=(), max_length=64)


class PackageLibrary(Strict):
    """A package of PyPI or CRAN for a Databricks cluster."""

    package: Text
    repo: Text | None = None


class DatabricksSection(Strict):
    """Libraries that a Databricks cluster installs."""

    maven_libraries: tuple[MavenLibrary, ...] = Field(default=(), max_length=64)
    pypi_libraries: tuple[PackageLibrary, ...] = Field(default=(), max_length=64)
    rcran_libraries: tuple[PackageLibrary, ...] = Field(default=(), max_length=64)
    jar_libraries: tuple[Text, ...] = Field(default=(), max_length=64)
    egg_libraries: tuple[Text, ...] = Field(default=(), max_length=64)


Tags = Annotated[dict[str, Annotated[str, StringConstraints(max_length=1024)]], Field(max_length=64)]


class Definition(Strict):
    """What a user wrote. Variables, tags and description belong to the version, not to the hash.

    `apt` are packages of the image's system, `build_variables` are set while packages are built.
    """

    python: PythonSection = PythonSection()
    variables: Variables = Field(default_factory=dict)
    docker: DockerSection | None = Field(default=None, exclude_if=_empty)
    spark: SparkSection | None = Field(default=None, exclude_if=_empty)
    databricks: DatabricksSection | None = Field(default=None, exclude_if=_empty)
    apt: tuple[Text, ...] = Field(default=(), max_length=256, exclude_if=_empty)
    build_variables: Variables = Field(default_factory=dict, exclude_if=_empty)
    inferencing_stack_version: Text | None = Field(default=None, exclude_if=_empty)
    description: Annotated[str, StringConstraints(max_length=2000)] = Field(default="", exclude_if=_empty)
    tags: Tags = Field(default_factory=dict, exclude_if=_empty)


class Artefact(Strict):
    """One file that a lock names. `url` has no credentials; `digest` is that of the file's bytes.

    An artefact that was built from an sdist has kind `built-wheel`; its url names the sdist and
    `source_digest` the sdist's digest. A conda package has its `build` string and the channel's `subdir`.
    """

    kind: Literal["wheel", "built-wheel", "conda"]
    name: str
    version: str
    filename: str
    url: str
    digest: Digest
    size: int = Field(ge=0)
    source_digest: Digest | None = None
    build: str = Field(default="", exclude_if=_empty)
    subdir: str = Field(default="", exclude_if=_empty)


class Lock(Strict):
    """The exact files of an environment, in the order in which they are installed (conda first, then by name).

    `definition_hash` is the `e1:…` of what was asked, `python` the interpreter's full version,
    `platform` a tag such as `linux-x86_64`, `pylock` the `pylock.toml` text (PEP 751) of what pip brings,
    `pixi_lock` the `pixi.lock` text of everything where conda packages are part of it.
    """

    definition_hash: str
    python: str
    platform: str
    artefacts: tuple[Artefact, ...]
    pylock: str
    pixi_lock: str = Field(default="", exclude_if=_empty)
