"""The swagger and OpenAPI documents of a scoring service."""

from collections.abc import Mapping
from typing import cast

VERSIONS = {"2": "2", "2.0": "2", "3": "3", "3.0": "3", "3.1": "3.1"}
_ANY = {"type": "object", "example": {}}
_ERROR = {"type": "object", "properties": {"status_code": {"type": "integer"}, "message": {"type": "string"}}}

Document = dict[str, object]


def document(version: str, name: str, service_version: str, described: Mapping[str, object]) -> Document | None:
    """Return the document of a version ("2", "3", "3.1"), or None when the script does not support it.

    A file of the user's wins over what is generated from the script's decorators.
    """
    files = described.get("files")
    if isinstance(files, dict) and version in files:
        return cast("Document", files[version])
    schemas = described.get("schemas")
    known = cast("Mapping[str, object]", schemas) if isinstance(schemas, dict) else {}
    supported = {VERSIONS.get(str(v), str(v)) for v in cast("list[object]", known.get("versions", []))}
    if supported and version not in supported:
        return None
    given, returned = known.get("input", _ANY), known.get("output", _ANY)
    models: Document = {"ServiceInput": given, "ServiceOutput": returned, "ErrorResponse": _ERROR}
    info: Document = {
        "title": name,
        "version": service_version,
        "description": f"API specification for the service {name}",
    }
    return _two(info, models) if version == "2" else _three(version, info, models)


def _two(info: Document, models: Document) -> Document:
    def answer(text: str, model: str | None) -> Document:
        return {"description": text, "schema": {"$ref": f"#/definitions/{model}"} if model else {"type": "string"}}

    body = {"name": "serviceInputPayload", "in": "body", "schema": {"$ref": "#/definitions/ServiceInput"}}
    score = {
        "operationId": "RunMLService",
        "description": "Run the scoring script on the input",
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "parameters": [body],
        "responses": {"200": answer("The result", "ServiceOutput"), "default": answer("An error", "ErrorResponse")},
    }
    key = {"type": "apiKey", "name": "Authorization", "in": "header", "description": "For example: Bearer abc123"}
    return {
        "swagger": "2.0",
        "info": info,
        "schemes": ["https", "http"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {"Bearer": key},
        "paths": {
            "/": {"get": {"operationId": "ServiceHealthCheck", "responses": {"200": answer("Healthy", None)}}},
            "/score": {"post": {**score, "security": [{"Bearer": []}]}},
        },
        "definitions": models,
    }


def _three(version: str, info: Document, models: Document) -> Document:
    def content(model: str) -> Document:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}}

    text = {"text/plain": {"schema": {"type": "string"}}}
    score = {
        "operationId": "RunMLService",
        "description": "Run the scoring script on the input",
        "requestBody": {"content": content("ServiceInput")},
        "responses": {
            "200": {"description": "The result", "content": content("ServiceOutput")},
            "default": {"description": "An error", "content": content("ErrorResponse")},
        },
        "security": [{"Bearer": []}],
    }
    health = {"operationId": "ServiceHealthCheck", "responses": {"200": {"description": "Healthy", "content": text}}}
    return {
        "openapi": "3.0.3" if version == "3" else "3.1.0",
        "info": info,
        "paths": {"/": {"get": health}, "/score": {"post": score}},
        "components": {"schemas": models, "securitySchemes": {"Bearer": {"type": "http", "scheme": "bearer"}}},
    }
