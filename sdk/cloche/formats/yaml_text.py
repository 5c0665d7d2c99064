"""YAML as data only: no tags, no aliases, no surprises, bounded, and with the line of every place.

Numbers with a point stay text, so that `3.10` is a version and not 3.1.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cloche._errors import Invalid
from cloche_shared.errors import Violation

MAX_CHARACTERS: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 10_000
_PLAIN: Final = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*(?:[ =<>!,~*\[\]:][A-Za-z0-9_./+*-]+)*")
_UNPRINTED: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_NUMBER: Final = re.compile(r"-?(0|[1-9]\d{0,15})")
_WORDS: Final = {"null": None, "~": None, "": None, "true": True, "false": False}
_LIKE_OTHERS: Final = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))

Value = Mapping[str, "Value"] | list["Value"] | str | int | bool | None


@dataclass(slots=True)
class Document:
    """What a text says, and the line (from 1) of each place by its JSON pointer."""

    data: Value
    lines: dict[str, int] = field(default_factory=dict)

    def line(self, pointer: str) -> int | None:
        """Return the line of a place, or of the nearest one above it."""
        while pointer and pointer not in self.lines:
            pointer = pointer.rpartition("/")[0]
        return self.lines.get(pointer)


def escaped(name: str) -> str:
    """Return a member's name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def fault(line: int, detail: str, code: str = "invalid_yaml") -> Invalid:
    """Return the error for a text that cannot be read."""
    told = f"Line {line}: {detail}"
    return Invalid(
        code,
        "The file cannot be read as plain YAML.",
        why=told,
        todo="Correct the line. Tags, anchors with aliases and several documents in one file are not available.",
        violations=[Violation(f"/{line}", code, told)],
    )


def read_yaml(text: str) -> Document:
    """Return what a YAML text says. Raises `Invalid` (`invalid_yaml`)."""
    import yaml  # noqa: PLC0415 - only where a file is YAML

    if len(text) > MAX_CHARACTERS:
        raise fault(1, f"a file has {MAX_CHARACTERS // 1024} KiB at most.")
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(type(event).__name__.removesuffix("Event"), event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise fault(mark.line + 1 if mark else 1, f"{error.problem or 'it is no YAML'}.") from None
    except yaml.YAMLError:
        raise fault(1, "it holds characters that YAML does not allow.") from None
    return builder.document


@dataclass(slots=True)
class _Open:
    """A list or mapping that is being read."""

    pointer: str
    value: Any
    key: str | None = None


class _Builder:
    """Makes data of events, without recursion."""

    def __init__(self) -> None:
        self.document = Document(None)
        self._open: list[_Open] = []
        self._nodes = 0
        self._documents = 0

    def take(self, kind: str, event: Any) -> None:  # noqa: ANN401 - the parser has no types
        """Take the next event into account."""
        line = event.start_mark.line + 1 if event.start_mark else 1
        if kind == "Alias":
            raise fault(line, "an alias (`*name`) is not available.")
        if kind == "DocumentStart":
            self._documents += 1
            if self._documents > 1:
                raise fault(line, "there is a second document.")
        elif kind in {"MappingStart", "SequenceStart"}:
            self._begin({} if kind == "MappingStart" else [], event, line)
        elif kind in {"MappingEnd", "SequenceEnd"}:
            self._open.pop()
        elif kind == "Scalar":
            self._scalar(event, line)

    def _begin(self, value: Any, event: Any, line: int) -> None:  # noqa: ANN401 - the same
        if event.tag is not None:
            raise fault(line, "a tag (`!name`) is not available.")
        if len(self._open) >= MAX_DEPTH:
            raise fault(line, f"it is nested more than {MAX_DEPTH} deep.")
        self._open.append(_Open(self._place(value, line), value))

    def _scalar(self, event: Any, line: int) -> None:  # noqa: ANN401 - the same
        if event.tag is not None:
            raise fault(line, "a tag (`!name`) is not available.")
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            if event.value == "<<":
                raise fault(line, "a merge key (`<<`) is not available.")
            if event.value in top.value:
                raise fault(line, f"the member {event.value[:80]!r} is there twice.")
            top.key = event.value
            return
        self._place(_typed(event.value) if event.style is None else event.value, line)

    def _place(self, value: Any, line: int) -> str:  # noqa: ANN401 - the same
        """Put a value where it belongs; return its pointer."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise fault(line, f"it has more than {MAX_NODES} values.")
        if not self._open:
            self.document.data = value
            pointer = ""
        else:
            top = self._open[-1]
            if isinstance(top.value, list):
                pointer = f"{top.pointer}/{len(top.value)}"
                top.value.append(value)
            elif top.key is None:
                raise fault(line, "the name of a member is a text.")
            else:
                pointer = f"{top.pointer}/{escaped(top.key)}"
                top.value[top.key] = value
                top.key = None
        self.document.lines[pointer] = line
        return pointer


def _typed(text: str) -> Value:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _NUMBER.fullmatch(text) else text


def write_yaml(value: Value, indent: int = 0) -> str:
    """Return a value as YAML, members in their order."""
    space = "  " * indent
    if isinstance(value, Mapping):
        return "".join(f"{space}{_text(key)}:{_below(item, indent)}" for key, item in value.items())
    if isinstance(value, list):
        return "".join(f"{space}-{_item(item, indent)}" for item in value)
    return f"{space}{_text(value)}\n"


def _below(value: Value, indent: int) -> str:
    if isinstance(value, Mapping | list) and value:
        return "\n" + write_yaml(value, indent + 1)
    return f" {_text(value)}\n"


def _item(value: Value, indent: int) -> str:
    if isinstance(value, Mapping | list) and value:
        return " " + write_yaml(value, indent + 1).lstrip()
    return f" {_text(value)}\n"


def _text(value: Value) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _LIKE_OTHERS:
        return value
    # what JSON would write as two halves of a character stays one; what YAML does not take as it is becomes \uXXXX
    return _UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
