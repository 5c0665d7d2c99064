"""What the served OpenAPI document promises: no answer but those it names, whatever is sent.

Every operation gets 50 requests made from its own description, on a server whose node offers no CPU and
whose package index is not there. Streams without an end are left out.
"""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi import checks

from tests.e2e.topology import Embedded, shared_server

EXAMPLES = 50
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
"""No check that valid data is accepted: page tokens and digests are texts by the document, but not any text."""
ENDLESS = {"/api/v1/events"}
METHODS = ("get", "put", "post", "delete", "patch")

pytestmark = [pytest.mark.slow, pytest.mark.embedded_only]


def operations() -> list[tuple[str, str]]:
    """Return the operations of the document that the package brings; a test compares it with the served one."""
    document = json.loads(resources.files("cloche").joinpath("openapi.json").read_bytes())
    return [
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item and path not in ENDLESS
    ]


@pytest.fixture(scope="session")
def closed(session_root: Path) -> Iterator[Embedded]:
    """A server that takes runs and never starts one, and that finds no package."""
    chosen = {"CLOCHE_RUNNER__CPUS": "0", "CLOCHE_BUILDER__DEFAULT_INDEX": "http://127.0.0.1:9/simple"}
    with shared_server(session_root, "closed", chosen) as server:
        yield server


@pytest.fixture(scope="session")
def schema(closed: Embedded) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{closed.url}/openapi.json")


def test_the_served_document_is_the_one_that_the_package_brings(closed: Embedded) -> None:
    served = httpx2.get(f"{closed.url}/openapi.json").json()
    assert served == json.loads(resources.files("cloche").joinpath("openapi.json").read_bytes())


def test_what_failed_by_itself_is_documented_as_it_is_shown(closed: Embedded) -> None:
    schemas = httpx2.get(f"{closed.url}/openapi.json").json()["components"]["schemas"]
    for view, field in (("BuildView", "problem"), ("ServiceView", "error"), ("RunView", "problem")):
        names = {one["$ref"].rpartition("/")[2] for one in schemas[view]["properties"][field]["anyOf"] if "$ref" in one}
        assert all({"code", "message", "todo"} <= set(schemas[name]["properties"]) for name in names)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("method", "path"), operations())
def test_every_answer_is_documented(closed: Embedded, schema: schemathesis.BaseSchema, method: str, path: str) -> None:
    headers = {"authorization": f"Bearer {closed.token}"}

    @given(case=schema[path][method].as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        case.call_and_validate(base_url=closed.url, headers=headers, checks=CHECKS, timeout=30)

    send()
