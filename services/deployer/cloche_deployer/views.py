"""Services as they are shown, and the rows of their lists."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from cloche_deployer.domain import Revision, ServiceState
from cloche_shared.contracts.references import Problem
from cloche_shared.contracts.runs import Resources
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.views import Row

VIEW = "services"
NODE_VIEW = "services-of-node"
LIVE, GONE = "live", "gone"


class EnvironmentShown(BaseModel):
    """Which environment version a revision runs in."""

    name: str
    version: str
    definition_hash: str


class ModelShown(BaseModel):
    """Which model version a revision serves."""

    name: str
    version: str


class WorkersShown(BaseModel):
    """How many workers are wanted and how many can take requests now (null: not known here)."""

    wanted: int
    ready: int | None = None


class ServiceView(BaseModel):
    """A service. `active_revision` has the traffic; `revision` is the newest one that was asked for."""

    model_config = ConfigDict(frozen=True)

    name: str
    status: str = Field(description="Transitioning, Healthy, Unhealthy or Failed.")
    revision: int
    active_revision: int | None
    entry_script: str
    environment: EnvironmentShown | None
    models: list[ModelShown]
    lock_digest: str | None
    image: str | None
    workers: WorkersShown
    resources: Resources
    gpus: list[str]
    scoring_uri: str | None = Field(description="Where to score, once a revision was deployed.")
    error: Problem | None
    tags: dict[str, str]
    description: str


class KeysView(BaseModel):
    """The two keys of a service; each opens this service's scoring and nothing else."""

    primary: str
    secondary: str


def view_of(name: str, state: ServiceState) -> ServiceView:
    """Return what is shown of a service."""
    newest = state.newest
    shown = state.revisions.get(state.active, newest)
    return ServiceView(
        name=name,
        status=state.status,
        revision=state.latest,
        active_revision=state.active or None,
        entry_script=shown.spec.entry_script,
        environment=_environment(shown),
        models=[ModelShown(name=model.name, version=model.version) for model in shown.models],
        lock_digest=shown.lock_digest or None,
        image=shown.image or None,
        workers=WorkersShown(wanted=shown.spec.workers),
        resources=shown.spec.resources,
        gpus=list(shown.gpus),
        scoring_uri=f"/api/v1/services/{name}/score" if state.scoring_url else None,
        error=newest.problem,
        tags=shown.spec.tags,
        description=shown.spec.description,
    )


def located(body: bytes, base_url: str) -> bytes:
    """Return a view's JSON with its scoring address at the place where this installation is reached now."""
    return body.replace(b'"scoring_uri":"/', b'"scoring_uri":"' + base_url.encode() + b"/", 1)


def unhealthy(body: bytes) -> bytes:
    """Return a healthy view's JSON as that of a service whose workers cannot answer now."""
    return body.replace(b'"status":"Healthy"', b'"status":"Unhealthy"', 1)


def staffed(body: bytes, ready: int) -> bytes:
    """Return a view's JSON with how many workers can take requests now."""
    return body.replace(b'"ready":null', b'"ready":%d' % ready, 1)


def _environment(revision: Revision) -> EnvironmentShown | None:
    found = revision.environment
    if found is None:
        return None
    return EnvironmentShown(name=found.name, version=found.version, definition_hash=found.definition_hash)


def row_of(stream: StreamId, state: ServiceState, seq: int) -> Sequence[Row]:
    """Return the rows of a service: its project's list, and the list of what the node takes up again."""
    facet = LIVE if state.exists else GONE
    body = view_of(stream.id, state).model_dump_json().encode() if state.exists else b"{}"
    whole = f"{stream.project}/{stream.id}"
    return [
        Row(VIEW, stream.project, stream.id, seq, stream.id, body, facet),
        Row(NODE_VIEW, "*", whole, seq, whole, b"{}", LIVE if state.holding or state.left else facet),
    ]
