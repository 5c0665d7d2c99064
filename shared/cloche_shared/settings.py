"""Settings: defaults, then `config.toml`, then `CLOCHE_<SECTION>__<FIELD>`; each value knows its source.

    class Root(Section):
        http: HttpSettings = HttpSettings()

    loaded = load(Root, config_text, os.environ)      # in wiring: reading both is its business
    loaded.value.http.port

A setting that does not exist is an error that names the closest one, so that no typo is silently lost.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from cloche_shared.errors import Invalid, Violation

PREFIX: Final = "CLOCHE_"
FILE: Final = "config.toml"
MASK: Final = "******"
_VARIABLE: Final = re.compile(r"CLOCHE_[A-Z0-9_]*__[A-Z0-9_]+").fullmatch

Tree = dict[str, object]


class Section(BaseModel):
    """A group of settings. Values from the environment are texts and are converted; nothing unknown is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpSettings(Section):
    """Where the server listens and whom it answers.

    `host`: an address; beyond loopback it needs `tls_certificate` and `tls_key` (paths), or `insecure`.
    `port` 0: any free one. `hosts` and `origins` are allowed besides the server's own address.
    `head_s`: for so long the head of a request may come, then 408. `connections_per_address`: what one
    address may hold open at a time; more where a proxy stands in front. `requests_per_s`: what one key
    may ask for, ten seconds' worth at once; 0: any; not set: any on loopback, else 50.
    `proxies`: addresses and networks (`10.0.0.0/8`) of the proxies in front: of their requests the last
    address in `X-Forwarded-For` counts as the caller's, and they may hold any number of connections.
    `outer_proxies`: those of the proxies before them: where the last address is one of these, the one before
    it counts, and so on. Name no network from which callers come, for they could say anything.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8571, ge=0, le=65535)
    uds: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    outer_proxies: tuple[str, ...] = ()
    tls_certificate: str | None = None
    tls_key: str | None = None
    insecure: bool = False
    head_s: float = Field(default=10.0, ge=1, le=600)
    connections_per_address: int = Field(default=256, ge=1)
    requests_per_s: float | None = Field(default=None, ge=0)
    drain_s: float = Field(default=10.0, ge=0, le=600)


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Sourced:
    """One setting as it is shown: its dotted name, its value (secrets masked), and where it came from."""

    name: str
    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """Settings and their sources by dotted name; what is not in `sources` is a default."""

    value: M
    sources: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> list[Sourced]:
        """Return every setting, for `config show --sources`."""
        return [
            Sourced(name, MASK if isinstance(value, SecretStr) else value, self._source(name))
            for name, value in _leaves(self.value)
        ]

    def secrets(self) -> list[str]:
        """Return the values that must never be shown, for the scrubber of the logs."""
        return [value.get_secret_value() for _, value in _leaves(self.value) if isinstance(value, SecretStr)]

    def _source(self, name: str) -> str:
        parts = name.split(".")
        heads = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((self.sources[head] for head in heads if head in self.sources), "default")


def load(model: type[M], config_text: str, environ: Mapping[str, str]) -> Loaded[M]:
    """Return the settings.

    Raises `Invalid`: `malformed_config`, `unknown_setting`, `invalid_setting`; the text names the
    setting and where its value came from, never a secret's value.
    """
    tree, sources = _from_file(model, config_text)
    for variable, text in sorted(environ.items()):
        if _VARIABLE(variable):
            path = variable.removeprefix(PREFIX).lower().split("__")
            _check_known(model, path, variable)
            _put(tree, path, _read(text))
            sources[".".join(path)] = f"environment {variable}"
    try:
        return Loaded(model.model_validate(tree), sources)
    except ValidationError as error:
        raise _invalid(error, sources) from None


def _from_file(model: type[BaseModel], text: str) -> tuple[Tree, dict[str, str]]:
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid("malformed_config", f"{FILE} is not TOML.", why=str(error), todo="Correct the file.") from None
    sources = {}
    for path in _paths(tree):
        _check_known(model, path, FILE)
        sources[".".join(path)] = FILE
    return tree, sources


def _paths(tree: Mapping[str, object], head: tuple[str, ...] = ()) -> Iterator[list[str]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, (*head, name))
        else:
            yield [*head, name]


def _put(tree: Tree, path: list[str], value: object) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = tree[part] = {}
        tree = inner
    tree[path[-1]] = value


def _read(text: str) -> object:
    """Return a list or table from JSON; everything else is the text itself, converted by the model."""
    if text[:1] in {"[", "{"}:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return text


def _section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the model behind a field; None for plain values and tables with free names."""
    kind = model.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _check_known(model: type[BaseModel], path: list[str], where: str) -> None:
    at: type[BaseModel] | None = model
    for index, part in enumerate(path):
        if at is None:
            return
        if part not in at.model_fields:
            raise _unknown(model, path, index, where)
        at = _section_of(at, part)


def _unknown(model: type[BaseModel], path: list[str], index: int, where: str) -> Invalid:
    name = ".".join(path)
    known = list(_names(model))
    heads = sorted({known_name.split(".")[0] for known_name in known}) if index == 0 and len(path) == 1 else known
    close = difflib.get_close_matches(name, heads, n=1, cutoff=0.5)
    in_environment = where.startswith(PREFIX)
    said = [PREFIX + one.upper().replace(".", "__") if in_environment else one for one in close]
    return Invalid(
        "unknown_setting",
        f"There is no setting {name!r} ({where}).",
        todo=f"Did you mean {said[0]!r}?" if said else "`cloche config show` lists all settings.",
        violations=[Violation("/" + "/".join(path), "unknown_setting", "Unknown.")],
    )


def _names(model: type[BaseModel], head: str = "") -> Iterator[str]:
    for name in model.model_fields:
        inner = _section_of(model, name)
        if inner is None:
            yield head + name
        else:
            yield from _names(inner, f"{head}{name}.")


def _leaves(value: BaseModel, head: str = "") -> Iterator[tuple[str, object]]:
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if isinstance(inner, BaseModel):
            yield from _leaves(inner, f"{head}{name}.")
        else:
            yield head + name, inner


def _invalid(error: ValidationError, sources: Mapping[str, str]) -> Invalid:
    violations = []
    for one in error.errors(include_input=False, include_context=False, include_url=False):
        name = ".".join(str(part) for part in one["loc"])
        head = next((known for known in sorted(sources, key=len, reverse=True) if name.startswith(known)), "")
        where = f" ({sources[head]})" if head else ""
        pointer = "/" + "/".join(str(part) for part in one["loc"])
        violations.append(Violation(pointer, "invalid_setting", f"{name}{where}: {one['msg']}."))
    return Invalid(
        "invalid_setting",
        "The settings are not valid.",
        why=" ".join(violation.detail for violation in violations),
        todo="Correct the value where it was set.",
        violations=violations,
    )
