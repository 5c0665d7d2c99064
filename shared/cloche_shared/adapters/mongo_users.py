"""Users at the document store, for who may administer it: one for each service, for its own database alone."""

from contextlib import suppress
from typing import Any, Final

from pymongo.errors import OperationFailure

from cloche_shared.adapters.mongo import MongoStore
from cloche_shared.errors import Unavailable

EXISTS: Final = 51003


class MongoUsers:
    """Users of the server that `store` talks to as its administrator."""

    def __init__(self, store: MongoStore, database: str) -> None:
        self._store = store
        self._database = database

    async def set_user(self, service: str, user: str, password: str) -> None:
        """Let a service's user sign in with a password, with rights on the service's database only.

        Raises `Unavailable` (`store_unavailable`, `store_auth`).
        """
        roles = [{"role": "readWrite", "db": f"{self._database}_{service}"}]
        said = {"pwd": password, "roles": roles}
        try:
            await self._do({"createUser": user, **said})
        except Unavailable as error:
            cause = error.__cause__
            if not (isinstance(cause, OperationFailure) and cause.code == EXISTS):
                raise
            await self._do({"updateUser": user, **said})

    async def _do(self, command: dict[str, Any]) -> None:
        admin = self._store.collection("probe").database.client["admin"]
        await self._store.write(lambda: admin.command(command))

    async def tidy(self) -> None:
        """Remove the empty database that asking the server has made."""
        with suppress(Unavailable):
            await self._store.drop()
