"""What only the registry needs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from cloche_shared.ports.blobs import Blobs


class WheelSays(Protocol):
    """What a wheel says of itself; `filename` is the one that its metadata gives it."""

    @property
    def filename(self) -> str:
        """The file name."""

    @property
    def name(self) -> str:
        """The package."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def requires(self) -> tuple[str, ...]:
        """What it needs."""

    @property
    def requires_python(self) -> str:
        """The Pythons that it is for."""


LookInto = Callable[[Blobs, str, str], Awaitable[WheelSays]]
"""Looks into a stored wheel, by digest and the name it came under. Raises `Invalid` (`invalid_wheel`)."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What the registry knows of a run that ended: its outputs' manifest (empty: none) and its environment."""

    outputs: str
    environment_name: str = ""
    environment_version: str = ""


class RunCopies(Protocol):
    """The registry's copy of what the runner told."""

    async def finished(self, project: str, run_id: str) -> FinishedRun:
        """Return a run that ended. Raises `NotFound` (`run_not_found`), `Conflict` (`run_not_finished`)."""
