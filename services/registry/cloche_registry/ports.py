"""What only the registry needs."""

from dataclasses import dataclass
from typing import Protocol


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
