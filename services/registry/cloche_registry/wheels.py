"""Private wheels: uploads, who refers to them, and their REST."""

from collections.abc import Sequence
from typing import Annotated, Final

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, StringConstraints
from starlette.responses import Response, StreamingResponse

from cloche_registry.domain import wheels as domain
from cloche_registry.domain.wheels import Wheel
from cloche_registry.ports import LookInto
from cloche_shared.blobs.errors import blob_not_found
from cloche_shared.contracts.common import Digest, Strict
from cloche_shared.contracts.definition import Definition, WheelRef
from cloche_shared.contracts.facts import WheelUploaded
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.conditions import Once
from cloche_shared.http.files import BYTES, download
from cloche_shared.http.paging import Page, Paging, page_bytes
from cloche_shared.http.position_wait import views_caught_up
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json
from cloche_shared.journal.commit import Origin, StreamId
from cloche_shared.journal.streams import Changed, Kind, Streams
from cloche_shared.journal.writer import Writer
from cloche_shared.ports.blobs import BlobStore
from cloche_shared.ports.views import Row, Views

WHEEL: Final = Kind("wheel", Wheel, domain.evolve)
WHEELS: Final = "wheels"
"""The list of wheels, each with its newest upload."""
AREA: Final = "wheels"
OWNER: Final = "registry"

Filename = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+!-]{0,254}$")]
Read = Annotated[Caller, may("environments.read")]
Write = Annotated[Caller, may("environments.write")]


class UploadWheel(Strict):
    """A wheel whose bytes were sent to `/files/wheels`; `filename` is the one that it had."""

    digest: Digest
    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)] = ""


class WheelView(BaseModel):
    """A private wheel: what `python.wheels` of a definition refers to it by, and what it says of itself.

    `filename` is the one of its metadata. `digests` are all contents that the name had, the newest last. `path`
    is its place at this server, which may stand among pip's packages too.
    """

    filename: str
    digest: str
    name: str
    version: str
    size: int
    requires: list[str]
    requires_python: str
    sent_as: str
    uploaded_at: str
    uploaded_by: str
    digests: list[str]
    path: str


def wheel_json(state: Wheel, upload: WheelUploaded) -> bytes:
    """Return an upload as JSON."""
    shown = upload.model_dump(mode="json", exclude={"at", "by", "package", "package_version"})
    return orjson.dumps(
        {
            **shown,
            "name": upload.package,
            "version": upload.package_version,
            "uploaded_at": upload.at,
            "uploaded_by": upload.by,
            "digests": list(state.digests),
            "path": f"/api/v1/wheels/{upload.digest}/{upload.filename}",
        }
    )


def wheel_rows(stream: StreamId, state: Wheel, seq: int) -> Sequence[Row]:
    """Return the row of a wheel."""
    if not state.uploads:
        return ()
    return [Row(WHEELS, stream.project, stream.id, seq, stream.id, wheel_json(state, state.uploads[-1]))]


class Wheels:
    """What is done with private wheels."""

    def __init__(self, streams: Streams[Wheel], writer: Writer, store: BlobStore, look_into: LookInto) -> None:
        self.streams = streams
        self._writer = writer
        self._store = store
        self._look_into = look_into

    async def upload(
        self, project: str, body: UploadWheel, origin: Origin, fingerprint: str = ""
    ) -> tuple[Changed[Wheel], WheelUploaded]:
        """Take an upload under the name that its metadata gives it.

        Raises `Invalid` (`invalid_wheel`), `NotFound` (`blob_not_found`).
        """
        blobs = self._store.space(OWNER, project)
        size = await blobs.size(body.digest)
        if size is None:
            raise blob_not_found(body.digest)
        content = await self._look_into(blobs, body.digest, body.filename)
        upload = WheelUploaded(
            filename=content.filename,
            digest=body.digest,
            package=content.name,
            package_version=content.version,
            size=size,
            requires=content.requires,
            requires_python=content.requires_python,
            sent_as=body.filename,
            at=self._writer.now(),
            by=origin.actor.subject,
        )
        changed = await self.streams.change(
            self._stream(project, content.filename),
            origin,
            lambda state: domain.decide_upload(state, upload),
            fingerprint=fingerprint,
        )
        return changed, next(one for one in reversed(changed.state.uploads) if one.digest == body.digest)

    def _stream(self, project: str, filename: str) -> StreamId:
        return self.streams.id(project, domain.stream_name(filename))

    async def find(self, project: str, filename: str) -> Wheel:
        """Return a wheel. Raises `NotFound` (`wheel_not_found`)."""
        state = (await self.streams.get(self._stream(project, filename))).state
        if not state.uploads:
            raise domain.not_found(filename)
        return state

    async def check(self, project: str, definition: Definition) -> None:
        """Check that a project has every wheel that a definition refers to. Raises `NotFound` (`wheel_not_found`)."""
        for number, ref in enumerate(definition.python.wheels):
            if not await self.knows(project, ref):
                raise domain.not_found(ref.filename, ref.digest, f"/definition/python/wheels/{number}")

    async def knows(self, project: str, ref: WheelRef) -> bool:
        """Whether a project has a wheel with this content."""
        return domain.has((await self.streams.get(self._stream(project, ref.filename))).state, ref)


def wheel_routes(wheels: Wheels, views: Views, store: BlobStore, installation: str) -> APIRouter:
    """Return the routes of wheels."""
    routes = router("wheels", "/wheels")
    list_waits = views_caught_up(installation, views, {"wheel": WHEELS})

    @routes.post(
        "",
        response_model=WheelView,
        operation_id="upload_wheel",
        responses={201: {"model": WheelView, "description": "The name means this content from now on."}},
    )
    async def upload(caller: Write, once: Once, body: Json[UploadWheel]) -> Response:
        """Take a wheel whose bytes were sent, under the name of its metadata; its RECORD is checked, nothing is run."""
        origin = caller.origin(request_id=once.request_id(caller.project))
        changed, found = await wheels.upload(caller.project, body, origin, once.fingerprint)
        caller.wrote(changed.stream, changed.seq)
        said = changed.outcome.json if changed.outcome is not None else {"uploaded": bool(changed.facts)}
        return Reply(wheel_json(changed.state, found), 201 if (said or {}).get("uploaded") else 200)

    @routes.get("", response_model=Page[WheelView], operation_id="list_wheels", dependencies=[list_waits])
    async def list_all(caller: Read, paging: Paging) -> Response:
        """List the project's wheels by file name, each with its newest upload."""
        rows = await views.page(WHEELS, caller.project, after=paging.after, limit=paging.limit + 1)
        return Reply(page_bytes(rows, paging))

    @routes.get("/{filename}", response_model=WheelView, operation_id="get_wheel")
    async def show(caller: Read, filename: Filename) -> Response:
        """Show a wheel's newest upload."""
        state = await wheels.find(caller.project, filename)
        return Reply(wheel_json(state, state.uploads[-1]))

    @routes.get(
        "/{digest}/{filename}",
        response_class=StreamingResponse,
        operation_id="download_wheel",
        responses={200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def content(caller: Read, digest: Digest, filename: Filename) -> Response:
        """Download a wheel, also one that was replaced."""
        if not await wheels.knows(caller.project, WheelRef(digest=digest, filename=filename)):
            raise domain.not_found(filename, digest)
        return await download(store.space(OWNER, caller.project), digest, filename=filename)

    return routes
