"""Everything that travels, described for others: JSON Schemas, an AsyncAPI 3 document, and what may change in them.

Made from the contracts, so that it cannot say anything else than the code does.
"""

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from cloche_shared.contracts.commands import ALL, Command, command_type
from cloche_shared.contracts.envelope import COMMANDS, STRUCTURED
from cloche_shared.contracts.fact import Fact, all_facts
from cloche_shared.contracts.facts import TOPICS

Json: TypeAlias = dict[str, object]

ANSWERS: Final = frozenset(
    (
        *("ReferencesResolved", "ReferencesRefused", "ImageProvided", "ImageRefused"),
        *("ReplicaAllocated", "ReplicaRefused", "CommandAccepted", "CommandRefused"),
    )
)
_BEGINNINGS: Final = (
    (TOPICS["denial"], ("AttemptsDenied", "ApiKeysUsed", "ReplayStarted", "RepublishStarted")),
    (TOPICS["environment"], ("Environment", "Wheel")),
    (TOPICS["model"], ("Model",)),
    (TOPICS["access"], ("ApiKey", "Key", "Project", "DeadLetter", "Secret")),
    (TOPICS["build"], ("Image", "Build")),
    (TOPICS["run"], ("Run", "Attempt")),
    (TOPICS["node"], ("Node", "Resources")),
    (TOPICS["service"], ("Service", "Revision", "Replica")),
)
"""How the facts on a topic begin; the first line that fits counts."""

_HEADERS: Final[Json] = {
    "type": "object",
    "required": ["ce_specversion", "ce_id", "ce_type", "ce_source"],
    "properties": {
        name: {"type": "string", "description": text}
        for name, text in {
            "ce_specversion": "`1.0`.",
            "ce_id": "With the source unique. Of a fact: its place in the journal.",
            "ce_type": "`cloche.<Name>.v<major>`.",
            "ce_source": "Who said it: `/cloche/runner`; of a command: its producer.",
            "ce_subject": "The aggregate that it is about: `run/default/<id>`.",
            "ce_time": "RFC 3339, in UTC.",
            "ce_sequence": "Its document's number in the aggregate, from 1.",
            "ce_project": "The project. Of a command the topic says it, and this is ignored.",
            "ce_correlationid": "The whole chain.",
            "ce_causationid": "The event that this one follows.",
            "ce_traceparent": "W3C Trace Context.",
            "ce_actor": "Who caused it. Ignored in commands.",
            "content-type": f"`application/json`, or `{STRUCTURED}` for a command in structured mode.",
        }.items()
    },
}


def topic_of(name: str) -> str:
    """Return the topic of a fact by its name. Raises `LookupError` for one that `_BEGINNINGS` does not know."""
    if name in ANSWERS:
        return TOPICS["answers"]
    for topic, beginnings in _BEGINNINGS:
        if name.startswith(beginnings):
            return topic
    raise LookupError(name)


def contracts() -> dict[str, type[Fact] | type[Command]]:
    """Return every fact, answer and command by the name of its type, sorted."""
    found: dict[str, type[Fact | Command]] = {command_type(cls): cls for cls in ALL}
    found |= {name: cls for name, cls in all_facts().items() if cls.__module__.startswith("cloche_shared.")}
    return {name: found[name] for name in sorted(found)}


def schema_of(name: str, cls: type[Fact] | type[Command]) -> Json:
    """Return the JSON Schema of the data of one type."""
    found: Json = cls.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:cloche:{name}", **found}


def schemas() -> dict[str, Json]:
    """Return all schemas by the name of their type."""
    return {name: schema_of(name, cls) for name, cls in contracts().items()}


def asyncapi(version: str) -> Json:
    """Return the AsyncAPI 3 document: the facts that Cloche sends, and the commands that it receives."""
    known = contracts()
    channels: dict[str, Json] = {}
    for name, cls in known.items():
        address = f"{COMMANDS}{{project}}" if issubclass(cls, Command) else topic_of(cls.__name__)
        channel = channels.setdefault(_key(address), {"address": address, "messages": {}})
        messages = channel["messages"]
        if isinstance(messages, dict):
            messages[name] = {"$ref": f"#/components/messages/{name}"}
    channels["commands"]["parameters"] = {"project": {"description": "A project's name."}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Cloche events",
            "version": version,
            "description": "CloudEvents 1.0 over Kafka in binary content mode; commands also in structured mode.",
        },
        "defaultContentType": "application/json",
        "channels": dict(sorted(channels.items())),
        "operations": {key: _operation(key) for key in sorted(channels)},
        "components": {
            "messages": {name: _message(name, cls) for name, cls in known.items()},
            "messageTraits": {"cloudEvent": {"headers": _HEADERS}},
        },
    }


def _key(address: str) -> str:
    return address.split(".")[1]


def _operation(channel: str) -> Json:
    """Return what Cloche itself does with a channel."""
    action = "receive" if channel == "commands" else "send"
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _message(name: str, cls: type[Fact] | type[Command]) -> Json:
    return {
        "name": name,
        "summary": " ".join((cls.__doc__ or "").split()),
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
        "payload": {"$ref": f"schemas/{name}.json"},
    }


# --- what may change within a major version

_TEXTS: Final = frozenset(("title", "description", "default", "examples", "$schema", "$id", "$defs", "$ref"))
_LISTS: Final = frozenset(("properties", "required", "enum", "anyOf", "oneOf", "discriminator"))


def breaks(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[str]:
    """Return what of the new schemas whoever knows the old ones would stumble over, as sentences.

    Types and fields may be added. What a command demands may not grow, what a fact promises may not change.
    """
    commands = {command_type(cls) for cls in ALL}
    found = [f"{name} is gone." for name in old if name not in new]
    for name in sorted(set(old) & set(new)):
        found += _Comparison(old[name], new[name], is_command=name in commands).differences(name)
    return found


class _Comparison:
    """Two schemas of one type."""

    def __init__(self, old: Json, new: Json, *, is_command: bool) -> None:
        self._old = old
        self._new = new
        self._is_command = is_command

    def differences(self, name: str) -> list[str]:
        return list(self._compare(self._old, self._new, name, ()))

    def _compare(self, old: Json, new: Json, where: str, above: tuple[str, ...]) -> Iterator[str]:
        ref = str(old.get("$ref", ""))
        if ref in above:
            return
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        above = (*above, ref) if ref else above
        yield from self._keywords(old, new, where)
        yield from self._required(old, new, where)
        properties, now = _children(old, "properties"), _children(new, "properties")
        for name, schema in properties.items():
            if name not in now:
                yield f"{where}/{name} is gone."
            else:
                yield from self._compare(schema, now[name], f"{where}/{name}", above)
        for name in ("items", "additionalProperties"):
            inner, other = old.get(name), new.get(name)
            if isinstance(inner, dict) and isinstance(other, dict):
                yield from self._compare(inner, other, f"{where}/*", above)
        yield from self._alternatives(old, new, where, above)

    def _alternatives(self, old: Json, new: Json, where: str, above: tuple[str, ...]) -> Iterator[str]:
        """Each old alternative must fit a new one; others may be added."""
        for name in ("anyOf", "oneOf"):
            left = _list(new, name)
            for one in _list(old, name):
                if all(list(self._compare(one, other, where, above)) for other in left):
                    yield f"{where} takes one of its alternatives no longer."

    def _keywords(self, old: Json, new: Json, where: str) -> Iterator[str]:
        for name in sorted((set(old) | set(new)) - _TEXTS - _LISTS):
            before, after = old.get(name), new.get(name)
            if before != after and not (isinstance(before, dict) and isinstance(after, dict)):
                yield f"{where}: {name} was {before!r} and is {after!r}."
        gone = [one for one in _values(old, "enum") if "enum" in new and one not in _values(new, "enum")]
        if gone:
            yield f"{where} no longer may be {', '.join(map(str, gone))}."

    def _required(self, old: Json, new: Json, where: str) -> Iterator[str]:
        before, after = set(_values(old, "required")), set(_values(new, "required"))
        for name in sorted(map(str, after - before)):
            yield f"{where}/{name} is required now."
        if not self._is_command:
            for name in sorted(map(str, before - after)):
                yield f"{where}/{name} is no longer always there."


def _resolved(schema: Json, whole: Json) -> Json:
    """Return a schema, or what it refers to."""
    ref = schema.get("$ref")
    if not isinstance(ref, str):
        return schema
    return _children(whole, "$defs")[ref.rpartition("/")[2]]


def _children(schema: Json, name: str) -> dict[str, Json]:
    found = schema.get(name)
    return found if isinstance(found, dict) else {}


def _values(schema: Json, name: str) -> list[object]:
    found = schema.get(name)
    return found if isinstance(found, list) else []


def _list(schema: Json, name: str) -> list[Json]:
    return [one for one in _values(schema, name) if isinstance(one, dict)]
