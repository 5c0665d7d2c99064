"""What callers that share an insert command hear when it fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from pymongo.errors import BulkWriteError, NetworkTimeout, OperationFailure, PyMongoError

from cloche_shared.adapters.mongo_errors import of_write
from cloche_shared.adapters.mongo_inserts import Inserts
from cloche_shared.errors import Unavailable
from cloche_shared.ports.journal import OutcomeUnknownError

CALLERS = 6
DISK_FULL, INTERNAL = 14031, 1
T = TypeVar("T")


class Refusing:
    """A store that fails every command the same way, once all callers wait."""

    replicated = True

    def __init__(self, error: PyMongoError) -> None:
        self._error = error

    def collection(self, name: str) -> Any:
        return self

    async def write(self, action: Callable[[], Awaitable[T]]) -> T:
        try:
            return await action()
        except PyMongoError as error:
            raise of_write(error) from error

    async def insert_many(self, rows: list[dict[str, Any]], *, ordered: bool) -> None:
        await asyncio.sleep(0)
        raise self._error


def refused(index: int, code: int) -> BulkWriteError:
    return BulkWriteError({"writeErrors": [{"index": index, "code": code, "errmsg": "no"}]})


def rows(count: int) -> list[dict[str, Any]]:
    return [{"body": b"{}"} for _ in range(count)]


@pytest.mark.parametrize("error", [NetworkTimeout("late"), OperationFailure("disk", DISK_FULL)], ids=repr)
async def test_each_caller_of_a_command_that_failed_has_an_error_of_its_own(error: PyMongoError) -> None:
    inserts = Inserts(Refusing(error), 5.0)
    told = await asyncio.gather(*(inserts.insert(rows(1)) for _ in range(CALLERS)), return_exceptions=True)
    assert {type(one) for one in told} == {type(of_write(error))}
    assert len({id(one) for one in told}) == CALLERS
    assert all(isinstance(one, Exception) and one.__cause__ is error for one in told)


async def test_a_row_that_is_refused_for_certain_is_told_so() -> None:
    with pytest.raises(Unavailable) as raised:
        await Inserts(Refusing(refused(0, DISK_FULL)), 5.0).insert(rows(2))
    assert raised.value.code == "store_unavailable"


@pytest.mark.parametrize(("index", "code"), [(1, DISK_FULL), (0, INTERNAL)])
async def test_what_may_be_written_in_part_is_not_told_as_refused(index: int, code: int) -> None:
    with pytest.raises(OutcomeUnknownError):
        await Inserts(Refusing(refused(index, code)), 5.0).insert(rows(2))
