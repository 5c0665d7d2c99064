"""What the runner's REST API takes and gives, besides `RunView`."""

from typing import Literal

from pydantic import BaseModel, Field

from cloche_shared.contracts.files import FileEntry
from cloche_shared.contracts.references import Environment, ModelRef, References
from cloche_shared.contracts.runs import AskedResources, RunSpec, RunStatus, kept_spec
from cloche_shared.store.inline import checked_references


class SubmitRun(RunSpec):
    """A run to be made: code, environment, resources.

    `environment` names one, or holds a definition, which is registered if it is new; null means the
    server's default one. The snapshot's blobs and manifest were sent to `/files/runs` before.
    """

    resources: AskedResources = AskedResources()
    environment: Environment | None = None
    models: tuple[ModelRef, ...] = Field(default=(), max_length=32)

    def spec(self) -> RunSpec:
        """Return what the runner keeps."""
        return kept_spec(self, self.resources, self.snapshot)

    def references(self) -> References:
        """Return what the registry resolves."""
        return checked_references(self.environment, self.models)


class WhyView(BaseModel):
    """Where a run stands and what it waits for."""

    id: str
    status: RunStatus
    waits_for: Literal["references", "environment", "resources", "node", "room", "nothing"]
    reason: str


class MetricsView(BaseModel):
    """What the run's last attempt logged: a value, a list of values, or a table of columns by name."""

    metrics: dict[str, object]
    tags: dict[str, str]
    properties: dict[str, str]
    truncated: bool = Field(description="More was logged than is kept.")


class OutputsView(BaseModel):
    """The files that a run left below `outputs/` and `logs/`, and those that it uploaded."""

    digest: str
    files: list[FileEntry]


class GpuView(BaseModel):
    """A GPU of a node; `memory` in bytes."""

    uuid: str
    kind: str
    memory: int
    free: bool


class NodeView(BaseModel):
    """A node: what it has in all, what is free, and which runs and replicas of the caller's project it holds."""

    id: str
    status: Literal["ready", "lost"]
    cpus: float
    memory: int
    free_cpus: float
    free_memory: int
    gpus: list[GpuView]
    holders: list[str]
    open: bool = Field(description="Whether it may run the caller's project's code; if not, it is another project's.")
