"""Blobs over HTTP: one router for all services (docs/explanation/architecture.md, REST).

    POST /files/<area>/missing          {"digests": [...]} -> {"missing": [...]}
    PUT  /files/<area>/{digest}         raw bytes, verified while they arrive
    GET  /files/<area>/{digest}         raw bytes

Each project has a space of its own: a digest that only another project holds is missing here. Storing
the same bytes again is harmless, so these requests need no Idempotency-Key.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from cloche_shared.blobs.errors import blob_not_found
from cloche_shared.contracts.common import Digest, Strict
from cloche_shared.errors import Unavailable
from cloche_shared.http.caller import Caller, may
from cloche_shared.http.policy import GIB, UPLOAD, BodyRule, RouteRule
from cloche_shared.http.replies import Reply
from cloche_shared.http.routes import router
from cloche_shared.http.strict_json import Json
from cloche_shared.ports.blobs import Blobs, BlobStore

MAX_DIGESTS: Final = 5000
"""Digests in one question; ask several times for more."""
MAX_FILE_BYTES: Final = 2 * GIB
BYTES: Final = "application/octet-stream"

_PREFIX: Final = "/api/v1/files/"
FILE_RULES: Final = (
    RouteRule(_PREFIX, BodyRule(), suffix="/missing"),
    RouteRule(_PREFIX, UPLOAD),
)
"""Body rules for `FrontPolicy.routes` wherever a files router is mounted."""

_OPENAPI_BYTES: Final = {BYTES: {"schema": {"type": "string", "format": "binary"}}}


class Digests(Strict):
    """Which blobs a client wants to know of."""

    digests: tuple[Digest, ...] = Field(max_length=MAX_DIGESTS)


class Missing(BaseModel):
    """Those that are absent, in the order in which they were asked for."""

    missing: list[str]


class Stored(BaseModel):
    """A blob that is here; `size` in bytes."""

    digest: str
    size: int


class BytesResponse(StreamingResponse):
    """A blob as a download, never shown by a browser as a page of ours."""

    media_type = BYTES

    def __init__(self, blobs: Blobs, digest: str, size: int, *, filename: str = "") -> None:
        name = f"; filename*=UTF-8''{quote(filename, safe='')}" if filename else ""
        super().__init__(
            blobs.read(digest),
            headers={
                "content-length": str(size),
                "content-disposition": f"attachment{name}",
                "etag": f'"{digest}"',
            },
        )


async def download(blobs: Blobs, digest: str, *, filename: str = "") -> BytesResponse:
    """Return a blob as an answer. Raises `NotFound` (`blob_not_found`) before anything is sent."""
    size = await blobs.size(digest)
    if size is None:
        raise blob_not_found(digest)
    return BytesResponse(blobs, digest, size, filename=filename)


def files_router(area: str, store: BlobStore, owner: str, *, max_file_bytes: int = MAX_FILE_BYTES) -> APIRouter:
    """Return the routes `/files/<area>` over the spaces of the service `owner`."""
    routes = router("files", f"/files/{area}")

    def space(caller: Caller) -> Blobs:
        return store.space(owner, caller.project)

    @routes.post("/missing", response_model=Missing, operation_id=f"missing_{area}_files")
    async def missing(caller: Annotated[Caller, may("blobs.write")], body: Json[Digests]) -> Response:
        """Tell which blobs have to be sent."""
        absent = await space(caller).missing(list(body.digests))
        return Reply(Missing(missing=absent))

    @routes.put(
        "/{digest}",
        response_model=Stored,
        operation_id=f"put_{area}_file",
        responses={201: {"model": Stored, "description": "It was not here before."}},
        openapi_extra={"requestBody": {"required": True, "content": _OPENAPI_BYTES}},
    )
    async def put(caller: Annotated[Caller, may("blobs.write")], digest: Digest, request: Request) -> Response:
        """Store a blob; its bytes must have this digest."""
        blobs = space(caller)
        known = await blobs.size(digest)
        blob = await blobs.put(_chunks(request), digest=digest, limit=max_file_bytes)
        return Reply(Stored(digest=blob.digest, size=blob.size), 201 if known is None else 200)

    @routes.get(
        "/{digest}",
        response_class=StreamingResponse,
        operation_id=f"get_{area}_file",
        responses={200: {"content": _OPENAPI_BYTES, "description": "The bytes."}},
    )
    async def get(caller: Annotated[Caller, may("blobs.read")], digest: Digest) -> Response:
        """Return a blob."""
        return await download(space(caller), digest)

    return routes


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect:
        # nobody reads this answer, unless the front cut the body off and says why itself
        raise Unavailable("upload_interrupted", "The upload ended early.", todo="Send the file again.") from None
