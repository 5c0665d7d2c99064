"""What others rely on is described from the code, and changes of it are noticed."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cloche_shared.contracts import catalogue

SUBMIT, COMPLETED = "cloche.SubmitRun.v1", "cloche.RunCompleted.v1"
RELEASED = Path(__file__).parent.parent.parent / "docs" / "released"


def changed(name: str, change: Any) -> list[str]:
    old = {name: catalogue.schemas()[name]}
    new = copy.deepcopy(old)
    change(new[name])
    return catalogue.breaks(old, new)


def test_every_fact_has_a_topic_and_every_message_a_schema() -> None:
    document: Any = catalogue.asyncapi("1.0.0")
    listed = [name for channel in document["channels"].values() for name in channel["messages"]]
    assert sorted(listed) == sorted(catalogue.schemas())
    assert document["channels"]["commands"]["address"] == "cloche.commands.{project}"
    assert COMPLETED in document["channels"]["runs"]["messages"]


def test_every_reference_within_the_document_leads_somewhere() -> None:
    document: Any = catalogue.asyncapi("1.0.0")
    for ref in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place = document
        for part in ref.split("/"):
            place = place[part]


def test_nothing_changed_is_no_breach() -> None:
    assert catalogue.breaks(catalogue.schemas(), catalogue.schemas()) == []


@pytest.mark.parametrize("release", sorted(RELEASED.glob("*.json")), ids=lambda path: path.stem)
def test_what_was_released_still_holds(release: Path) -> None:
    assert catalogue.breaks(json.loads(release.read_text()), catalogue.schemas()) == []


def test_a_new_field_that_may_be_left_out_is_no_breach() -> None:
    assert changed(SUBMIT, lambda schema: schema["properties"].update(extra={"type": "string"})) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (SUBMIT, lambda schema: schema["properties"].pop("script")),
        (SUBMIT, lambda schema: schema["required"].append("git")),
        (SUBMIT, lambda schema: schema["properties"]["script"].update(maxLength=10)),
        (SUBMIT, lambda schema: schema["$defs"]["GitSource"]["properties"].pop("commit")),
        (SUBMIT, lambda schema: schema["properties"]["deadline"]["anyOf"].pop()),
        (COMPLETED, lambda schema: schema["required"].remove("outputs")),
        (COMPLETED, lambda schema: schema["properties"]["outputs"].update(type="integer")),
        (COMPLETED, lambda schema: schema["$defs"]["Ended"]["properties"]["ending"].update(type="integer")),
    ],
)
def test_what_others_would_stumble_over_is_named(name: str, change: Any) -> None:
    assert changed(name, change)


def test_a_command_may_demand_less_but_a_fact_may_not_say_less() -> None:
    assert changed(SUBMIT, lambda schema: schema["required"].remove("script")) == []
    assert changed(COMPLETED, lambda schema: schema["required"].remove("ended"))


def test_a_type_that_is_gone_is_named() -> None:
    assert catalogue.breaks({SUBMIT: {}}, {}) == [f"{SUBMIT} is gone."]
