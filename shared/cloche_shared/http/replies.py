"""Answers: models as JSON without a detour, 202 with a place to look, tags and positions."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response

MEDIA_TYPE = "application/json"


class Reply(Response):
    """A model, or JSON that is ready, as the answer.

    FastAPI would validate and convert a returned model once more; a `Reply` is written as it is. Name
    the model in the route's `response_model` so that it is documented.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        content: BaseModel | bytes,
        status: int = 200,
        *,
        etag: str | None = None,
        location: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = content if isinstance(content, bytes) else content.__pydantic_serializer__.to_json(content)
        whole = dict(headers or {})
        if etag is not None:
            whole["etag"] = etag
        if location is not None:
            whole["location"] = location
        super().__init__(body, status, whole)


def accepted(content: BaseModel | bytes, location: str, *, retry_after_s: int = 1, etag: str | None = None) -> Reply:
    """Return 202: the work goes on, `location` shows how far it is, ask again after `retry_after_s`."""
    return Reply(content, 202, location=location, etag=etag, headers={"retry-after": str(retry_after_s)})


def no_content() -> Response:
    """Return 204."""
    return Response(status_code=204)
