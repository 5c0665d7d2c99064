"""The builder's settings (`CLOCHE_BUILDER__…`)."""

from pydantic import Field

from cloche_shared.settings import Section

DEFAULT_INDEX = "https://pypi.org/simple"
CHANNEL_ALIAS = "https://conda.anaconda.org"


class BuilderSettings(Section):
    """How the builder works.

    `default_index`: the package index that is asked where a definition names none.
    `public_indexes`: what is built from these indexes alone is shared by all projects; None means
    the default index only, an empty list shares nothing.
    `channel_alias`: the address below which conda channels that are given by name are found.
    `public_channels`: conda channels (names or addresses) whose packages are everybody's.
    `glibc`: the oldest C library of the machines that environments are made for (`2.28`), as conda is told;
    empty: this machine's. `cuda`: the CUDA version that their drivers support; empty: conda is told of none.
    `platform`: what images are built for, as it stands in `e1` (`linux-x86_64`); empty: this machine's.
    `default_python`: the interpreter (`3.11`) of definitions that name none; empty: that of Cloche
    itself. Both must be what the registry was told, because they are part of `e1`.
    `parallel`: builds that one builder works on at a time.
    `backoff_s`: for so long a failed build is not tried again for a mere repetition of the request.
    `timeout_s`: the longest that one build may take.
    `lease_ttl_s`: the lease of a builder; others take its builds over one second after it ran out.
    `sweep_s`: how often open builds are looked for, besides the wake-ups by events.
    `sweep_lists_s`: seconds between two passes that write all lists again; 0: never.
    `log_limit`: bytes of a build's log that are kept; what is beyond is counted and dropped.
    """

    default_index: str = DEFAULT_INDEX
    public_indexes: tuple[str, ...] | None = None
    channel_alias: str = Field(default=CHANNEL_ALIAS, pattern=r"^https?://[^\s]+$")
    public_channels: tuple[str, ...] = ("conda-forge",)
    glibc: str = Field(default="", pattern=r"^(2\.\d{1,3})?$")
    cuda: str = Field(default="", pattern=r"^(\d{1,2}(\.\d{1,2})?)?$")
    platform: str = Field(default="", pattern=r"^([a-z0-9]+-[A-Za-z0-9_]+)?$")
    default_python: str = Field(default="", pattern=r"^(3\.\d{1,2}(\.\d{1,3})?)?$")
    parallel: int = Field(default=2, ge=1, le=64)
    backoff_s: float = Field(default=10.0, ge=0, le=3600)
    timeout_s: float = Field(default=3600.0, gt=0, le=86_400)
    lease_ttl_s: float = Field(default=10.0, ge=1, le=600)
    sweep_s: float = Field(default=2.0, gt=0, le=60)
    sweep_lists_s: float = Field(default=3600.0, ge=0)
    log_limit: int = Field(default=16 * 1024 * 1024, ge=64 * 1024)

    @property
    def public(self) -> tuple[str, ...]:
        """The indexes whose content is everybody's."""
        return (self.default_index,) if self.public_indexes is None else self.public_indexes
