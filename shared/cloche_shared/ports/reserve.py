"""Reserve: room on the disk that is kept for records of how things ended."""

from typing import Protocol


class Reserve(Protocol):
    """Room that is given up piece by piece when the disk is full."""

    def give_up(self) -> bool:
        """Free a piece of the room; false when nothing is kept any more."""

    def take_back(self) -> None:
        """Keep as much again as there is room for."""

    def is_needed(self) -> bool:
        """Whether the disk is as good as full."""


class NoReserve:
    """Where stores have room of their own, nothing is kept."""

    def give_up(self) -> bool:
        return False

    def take_back(self) -> None:
        return

    def is_needed(self) -> bool:
        return False
