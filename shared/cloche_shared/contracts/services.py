"""What a scoring service is asked to be."""

from typing import Annotated

from pydantic import Field, StringConstraints

from cloche_shared.contracts.common import Digest, Strict, Variables
from cloche_shared.contracts.runs import Resources


class ServiceSpec(Strict):
    """A revision's code and settings.

    `entry_script` is a path inside the snapshot (a manifest's digest in the deployer's blobs of the
    project). `timeout_ms` bounds one call of `run()`, `init_timeout` (seconds) the start of a worker;
    `queue` is how many requests may wait, above which callers get 429.
    """

    entry_script: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    snapshot: Digest
    workers: int = Field(default=1, ge=1, le=64)
    variables: Variables = Field(default_factory=dict)
    resources: Resources = Resources()
    timeout_ms: int = Field(default=60_000, ge=1, le=3_600_000)
    init_timeout: float = Field(default=300.0, gt=0, le=3600)
    queue: int = Field(default=128, ge=1, le=100_000)
    cors_origins: tuple[Annotated[str, StringConstraints(max_length=255)], ...] = Field(default=(), max_length=32)
    tags: dict[str, str] = Field(default_factory=dict, max_length=64)
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
