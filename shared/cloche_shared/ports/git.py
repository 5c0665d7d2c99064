"""Git: the files of one commit of a repository elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cloche_shared.errors import Invalid


@dataclass(frozen=True, slots=True)
class GitTree:
    """The regular files of a commit by path, and which of them are executable."""

    files: Mapping[str, bytes]
    executable: frozenset[str] = frozenset()


def git_unavailable() -> Invalid:
    """Return the error where nothing can fetch commits."""
    return Invalid(
        "git_unavailable",
        "This server cannot fetch from git.",
        why="The program git is not installed where the runner runs, or is older than 2.37.",
        todo="Send the code as `files` or as a `snapshot`.",
    )


class Git(Protocol):
    """Fetches commits."""

    async def fetch(self, url: str, commit: str) -> GitTree:
        """Return the tree of a commit.

        Raises `Invalid` (`url_not_allowed`, `unsafe_path`, `git_unavailable`), `TooLarge` (`snapshot_too_large`),
        `NotFound` (`commit_not_found`), `Failed` (`git_failed`).
        """
