"""What names a build: its scope and its key, and the id that users see."""

import re
from collections.abc import Collection, Iterator

from cloche_shared.contracts.definition import CondaSection, Definition, PipOptions
from cloche_shared.contracts.facts import Target
from cloche_shared.errors import Invalid
from cloche_shared.journal.commit import StreamId
from cloche_shared.store.hashing import without_credentials

PUBLIC = "public"
"""The scope of what everybody could have built from public sources alone."""
KIND = "build"

_HASH = re.compile(r"e1:([0-9a-f]{64})")
_SHOWN = re.compile(r"(public|project)-([0-9a-f]{64}\.[a-z0-9_]+\.[A-Za-z0-9_-]+)")


def _indexes(options: PipOptions, default_index: str) -> Iterator[str]:
    yield options.index_url or default_index
    yield from options.extra_index_urls
    yield from options.package_indexes.values()


def _plain(url: str) -> str:
    return without_credentials(url).rstrip("/")


def is_public(
    definition: Definition, public_indexes: Collection[str], default_index: str, public_channels: Collection[str] = ()
) -> bool:
    """Whether everything comes from places on the operator's lists, without credentials or direct addresses."""
    return not own_reason(definition, public_indexes, default_index, public_channels)


def own_reason(
    definition: Definition, public_indexes: Collection[str], default_index: str, public_channels: Collection[str] = ()
) -> str:
    """Return why what a definition makes is its project's alone; empty where it is everybody's."""
    section = definition.python
    if section.wheels:
        return "it has private wheels"
    if any("@" in line.partition(";")[0] for line in section.pip):
        return "it names a wheel by its address"
    if section.conda is not None and section.conda != CondaSection():
        channels = {channel.rstrip("/") for channel in public_channels}
        unknown = [channel for channel in section.conda.channels if channel.rstrip("/") not in channels]
        if unknown:
            return f"the channel {unknown[0]} is not one of everybody's (builder.public_channels)"
    known = {_plain(url) for url in public_indexes}
    for url in _indexes(section.pip_options, default_index):
        if "@" in url.partition("://")[2].partition("/")[0]:
            return f"the index {_plain(url)} is asked with credentials"
        if _plain(url) not in known:
            return f"the index {_plain(url)} is not one of everybody's (builder.public_indexes)"
    return ""


def scope_of(
    definition: Definition,
    project: str,
    public_indexes: Collection[str],
    default_index: str,
    public_channels: Collection[str] = (),
) -> str:
    """Return `public`, or the project whose the build is alone.

    Raises `Invalid` (`reserved_project`) for a project that is named like the public scope.
    """
    if is_public(definition, public_indexes, default_index, public_channels):
        return PUBLIC
    if project == PUBLIC:
        raise Invalid(
            "reserved_project",
            "A project named `public` cannot have environments of its own.",
            why="That name stands for builds that are shared by all projects.",
            todo="Use a project with another name.",
        )
    return project


def build_key(definition_hash: str, target: Target, platform: str, *, outlook: bool = False) -> str:
    """Return `<64 hex>.<target>.<platform>`; an outlook is a build of its own, `<64 hex>.outlook_<target>.…`.

    Raises `Invalid` (`unknown_definition_hash`).
    """
    match = _HASH.fullmatch(definition_hash)
    if match is None:
        raise Invalid(
            "unknown_definition_hash",
            "The definition's hash is of a scheme that this builder does not know.",
            todo="Update the builder, or register the environment again.",
        )
    return f"{match[1]}.{'outlook_' if outlook else ''}{target}.{platform}"


def shown_id(stream: StreamId) -> str:
    """Return the id of a build in URLs: `public-<key>` or, for the reader's own project, `project-<key>`."""
    return f"{'public' if stream.project == PUBLIC else 'project'}-{stream.id}"


def stream_of(build_id: str, project: str) -> StreamId | None:
    """Return the build that a reader of `project` means by an id; None when it is not a build's."""
    match = _SHOWN.fullmatch(build_id)
    if match is None:
        return None
    return StreamId(KIND, PUBLIC if match[1] == "public" else project, match[2])


def build_definition(definition: Definition, default_python: str) -> Definition:
    """Return what a build is made from, with the Python that was left open.

    Variables, description and tags are the asker's business and stay out of a record that other projects
    may share.
    """
    section = definition.python
    python = section.model_copy(update={"version": section.version or default_python or None})
    return definition.model_copy(update={"variables": {}, "description": "", "tags": {}, "python": python})
