"""Secrets of a workspace: the name is here so that imports work; Cloche cannot keep secrets of users yet."""

from typing import TYPE_CHECKING, NoReturn

from cloche.core._notes import unavailable

if TYPE_CHECKING:
    from cloche.core.workspace import Workspace


class Keyvault:
    """The secrets of a workspace. Making one raises `UserErrorException` (`not_available`)."""

    def __init__(self, workspace: "Workspace | None" = None) -> None:
        del workspace
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise unavailable("A key vault", "Secrets of users cannot be kept yet.", "Set variables in the run instead.")


__all__ = ["Keyvault"]
