"""What every service may answer."""

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.references import (
    Problem,
)


class CommandAccepted(Fact):
    """Answer: a command was carried out, or had nothing to change.

    `command` is its type, `about` the aggregate that it concerns (`run/default/<id>`); what it set going tells its
    own facts, with the command's correlation id.
    """

    command: str
    about: str = ""


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


class ApiKeysUsed(Fact):
    """Keys (`key:<id>`) that opened something at about this time: each is told once an hour by each process."""

    subjects: tuple[str, ...]
    at: str


class RepublishStarted(Fact):
    """An administrator let facts of a service's journal be sent to the bus again.

    `stream` is the one aggregate that it is about, empty where it is all; `first` and `last` are numbers within
    it (`last` None: up to its end); `since` and `until` RFC 3339 times, empty where they bound nothing.
    """

    service: str
    stream: str = ""
    first: int = 1
    last: int | None = None
    since: str = ""
    until: str = ""


class ReplayStarted(Fact):
    """An administrator let a consumer group have again what it had: all of it, or what came `since` a time."""

    group: str
    since: str = ""
