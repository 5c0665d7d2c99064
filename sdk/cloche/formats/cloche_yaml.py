"""Our own document, `cloche.yaml`: a name, and the members of a definition; its JSON Schema is published."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from cloche._errors import Invalid
from cloche.formats.conda_yaml import with_lines
from cloche.formats.reading import Exported, Imported, invalid
from cloche.formats.yaml_text import Document, Value, escaped, read_yaml, write_yaml
from cloche_shared.contracts.common import NAME_PATTERN
from cloche_shared.contracts.definition import Definition
from cloche_shared.errors import Violation

SCHEMA: Final = "urn:cloche:environment.v1"
"""The schema's id; the file is docs/reference/environment.schema.json, and `cloche env schema` writes it."""
WHAT: Final = "The definition cannot be used as written."
MAX_VIOLATIONS: Final = 100


def read_cloche(text: str) -> Imported:
    """Return what a `cloche.yaml` says. Raises `Invalid` (`invalid_yaml`, `unknown_field`, `invalid_field`)."""
    document = read_yaml(text)
    try:
        return of_cloche(document.data)
    except Invalid as error:
        raise with_lines(error, document) from None


def positions(text: str) -> Document:
    """Return the document of a text that can be read, for the lines of its places."""
    return read_yaml(text)


def of_cloche(data: Value) -> Imported:
    """Return what the data of a `cloche.yaml`, or the same as JSON, says."""
    if not isinstance(data, Mapping):
        raise invalid("invalid_field", WHAT, "", "The file holds no mapping.")
    said = {name: value for name, value in data.items() if name not in {"$schema", "name"}}
    name = data.get("name")
    if name is not None and not isinstance(name, str):
        raise invalid("invalid_name", WHAT, "/name", "A name is a text.")
    return Imported(validated(said, "invalid_field", WHAT), name or "")


def validated(said: Mapping[str, Any], code: str, what: str) -> Definition:
    """Return a definition from plain data. Raises `Invalid` (`code`, or `unknown_field`) with a pointer for each."""
    try:
        return Definition.model_validate_json(json.dumps(said))
    except ValidationError as error:
        violations = [_violation(one, code) for one in error.errors(include_url=False)[:MAX_VIOLATIONS]]
        why = violations[0].detail
        raise Invalid(violations[0].code, what, why=why, todo="Correct it.", violations=violations) from None


def _violation(one: Mapping[str, Any], code: str) -> Violation:
    pointer = "".join(f"/{escaped(str(part))}" for part in one["loc"])
    if one["type"] == "extra_forbidden":
        return Violation(pointer, "unknown_field", f"A definition has no member {str(one['loc'][-1])[:80]!r}.")
    return Violation(pointer, code, f"{one['msg'].rstrip('.')}.")


def cloche_data(definition: Definition, name: str = "") -> dict[str, Value]:
    """Return the data of our document: what differs from the defaults."""
    said = definition.model_dump(mode="json", exclude_defaults=True)
    return {**({"name": name} if name else {}), **said}


def write_cloche(definition: Definition, name: str = "") -> Exported:
    """Return `cloche.yaml`; it can say everything."""
    return Exported({"cloche.yaml": write_yaml({"$schema": SCHEMA, **cloche_data(definition, name)})})


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of our document."""
    schema = Definition.model_json_schema(mode="validation")
    properties = {
        "$schema": {"type": "string"},
        "name": {"type": "string", "pattern": NAME_PATTERN},
        **schema.pop("properties"),
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA}
    return {**head, **schema, "title": "Environment of Cloche", "properties": properties}
