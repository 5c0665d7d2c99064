"""How environments and models look: as rows of lists and as answers, which are the same JSON.

An answer is put together from parts that are JSON already: the definition is written once.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from cloche_registry.domain.environments import Environment
from cloche_registry.domain.models import Model
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.views import Row

ENVIRONMENTS: Final = "environments"
MODELS: Final = "models"
ACTIVE, ARCHIVED, DELETED = "active", "archived", "deleted"
"""The facets: lists show the first, or the second; the third is kept for those who wait for a position."""


def environment_json(name: str, state: Environment, number: int) -> bytes:
    """Return one version of an environment as JSON."""
    version = state.versions[number - 1]
    return orjson.dumps(
        {
            "name": name,
            "version": str(number),
            "definition": orjson.Fragment(version.definition.__pydantic_serializer__.to_json(version.definition)),
            "definition_hash": version.definition_hash,
            "python": version.python,
            "labels": sorted(label for label, labeled in state.labels.items() if labeled == number),
            "created_at": version.created_at,
            "created_by": version.created_by,
            "archived": state.archived,
            "latest": number == len(state.versions),
        }
    )


def environment_rows(stream: StreamId, state: Environment, seq: int) -> Sequence[Row]:
    """Return the row of an environment: its latest version."""
    if not state.versions:
        return ()
    facet = DELETED if state.deleted else ARCHIVED if state.archived else ACTIVE
    body = environment_json(stream.id, state, len(state.versions))
    return [Row(ENVIRONMENTS, stream.project, stream.id, seq, stream.id, body, facet)]


def model_json(name: str, state: Model, number: int) -> bytes:
    """Return one version of a model as JSON, without its files."""
    return orjson.dumps(model_parts(name, state, number))


def model_parts(name: str, state: Model, number: int) -> dict[str, object]:
    """Return the members of one version of a model."""
    version = state.versions[number - 1]
    return {
        "name": name,
        "version": str(number),
        "manifest": version.manifest,
        "size": version.size,
        "tags": version.tags,
        "description": version.description,
        "run_id": version.run_id,
        "environment_name": version.environment_name,
        "environment_version": version.environment_version,
        "created_at": version.created_at,
        "created_by": version.created_by,
        "latest": number == len(state.versions),
    }


def model_rows(stream: StreamId, state: Model, seq: int) -> Sequence[Row]:
    """Return the row of a model: its latest version."""
    if not state.versions:
        return ()
    body = model_json(stream.id, state, len(state.versions))
    facet = DELETED if state.deleted else ACTIVE
    return [Row(MODELS, stream.project, stream.id, seq, stream.id, body, facet)]
