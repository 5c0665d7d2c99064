"""Git: the files of one commit of a repository elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GitTree:
    """The regular files of a commit by path, and which of them are executable."""

    files: Mapping[str, bytes]
    executable: frozenset[str] = frozenset()


class Git(Protocol):
    """Fetches commits."""

    async def fetch(self, url: str, commit: str) -> GitTree:
        """Return the tree of a commit.

        Raises `Invalid` (`url_not_allowed`, `unsafe_path`, `git_unavailable`), `TooLarge` (`snapshot_too_large`),
        `NotFound` (`commit_not_found`).
        """
