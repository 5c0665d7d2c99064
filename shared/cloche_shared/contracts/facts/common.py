"""What every service may answer."""

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.references import (
    Problem,
)


class CommandRefused(Fact):
    """Answer: a command was understood and refused."""

    problem: Problem


class AttemptsDenied(Fact):
    """Changes that were refused, as far as they were alike, between `first_at` and `last_at`.

    `subject` is the key (`key:<id>`), empty where none was known; `path` the beginning of what was asked
    for. A `code` of `others` stands for kinds that there was no room for.
    """

    subject: str = ""
    address: str = ""
    method: str = ""
    path: str = ""
    code: str
    count: int
    first_at: str
    last_at: str
    first_request: str = ""
