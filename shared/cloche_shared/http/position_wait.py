"""Waiting until a service's own copy holds what the caller has seen.

router("models", "/models")  with  dependencies=[views_caught_up(installation, views, {"model": "models"})]
"""

from collections.abc import Mapping

from fastapi.params import Depends

from cloche_shared.http.positions import WaitFor, caught_up
from cloche_shared.journal.commit import StreamId
from cloche_shared.ports.views import Views


def waits_for_rows(views: Views, view_of: Mapping[str, str]) -> WaitFor:
    """Return what waits until the row of a stream has a position; `view_of` names each kind's view."""

    async def wait(stream: StreamId, seq: int) -> None:
        await views.changed(view_of[stream.kind], stream.project, stream.id, seq)

    return wait


def views_caught_up(installation: str, views: Views, view_of: Mapping[str, str]) -> Depends:
    """Return the dependency that waits for the kinds of `view_of`; after 5 s: 503 `not_caught_up`."""
    dependency: Depends = caught_up(installation, view_of.keys(), waits_for_rows(views, view_of))
    return dependency
