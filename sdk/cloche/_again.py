"""What the bus carried and is to carry again, and commands by message: operations for operators and producers."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from cloche import _views
from cloche._calls import Call, Operation, Pause, send
from cloche._errors import Unauthenticated, Unavailable
from cloche._operations import path_of

SERVICES: Final = ("registry", "builder", "runner", "deployer")
"""In the order in which they republish: before its keys are with the bus again, no other service lets anybody in."""
KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("environment", "model", "access", "letter"), "registry"),
    **dict.fromkeys(("build", "buildrequest"), "builder"),
    **dict.fromkeys(("run", "node"), "runner"),
    "service": "deployer",
}
"""Which service owns the aggregates of a kind."""
TRIES: Final = 20
"""How often a page is asked for, a second apart, while a service does not answer, or has not heard of the token yet."""

STILL: Final = 3
"""How many answers in a row may leave of a replay what was left before."""

Told = Callable[[str, int], None]
"""Told of each page: the service or group, and how many messages there were so far."""


def silent(_name: str, _count: int) -> None:
    """Tell nobody."""


def republish(  # noqa: PLR0913 - what may be selected
    services: Sequence[str],
    *,
    stream: str | None,
    first: int,
    last: int | None,
    since: datetime | None,
    until: datetime | None,
    dry_run: bool,
    told: Told,
) -> Operation[dict[str, int]]:
    """Send facts to the bus again; return how many events each service sent, or has with `dry_run`."""
    wanted = services or ((KINDS.get(stream.partition("/")[0], SERVICES[0]),) if stream else SERVICES)
    selection = {"stream": stream or "", "first": first, "last": last, "dry_run": dry_run, **_times(since, until)}
    counts: dict[str, int] = {}
    for service in sorted(wanted, key=lambda name: SERVICES.index(name) if name in SERVICES else len(SERVICES)):
        counts[service] = 0
        place = ""
        while True:
            call = Call("POST", path_of("journals", service, "republish"), json={**selection, "place": place})
            page = yield from _page(call, begun=bool(place or len(counts) > 1))
            counts[service] += int(page["events"])
            told(service, counts[service])
            place = str(page["next"])
            if not place:
                break
    return counts


def _page(call: Call, *, begun: bool) -> Operation[dict[str, Any]]:
    """Return a page; once something was answered, whatever keeps others from answering is waited for.

    A page may be asked for again: what was sent already only comes twice.
    """
    for _ in range(TRIES if begun else 0):
        try:
            return (yield from send(call)).json()
        except (Unauthenticated, Unavailable):
            yield Pause(1.0)
    return (yield from send(call)).json()


def _times(since: datetime | None, until: datetime | None = None) -> dict[str, str]:
    found = {"since": since, "until": until}
    return {name: moment.astimezone().isoformat() for name, moment in found.items() if moment is not None}


def replay(group: str, *, since: datetime | None, dry_run: bool, told: Told) -> Operation[int]:
    """Deliver to a group again what it had; return how many messages those are, about.

    Raises `Unavailable` (`bus_unavailable`) when page after page leaves what was left before.
    """
    body: dict[str, Any] = {**_times(since), "dry_run": dry_run}
    count = still = 0
    while True:
        call = Call("POST", path_of("events", "groups", group, "replay"), json=dict(body))
        page = yield from _page(call, begun="left" in body)
        count += int(page["messages"])
        told(group, count)
        if not page["left"]:
            return count
        still = still + 1 if page["left"] == body.get("left") else 0
        if still == STILL:
            raise _stuck(group, count)
        body["left"] = page["left"]


def _stuck(group: str, count: int) -> Unavailable:
    return Unavailable(
        "bus_unavailable",
        f"The replay for {group!r} does not get on: {count} messages came again, and the rest does not.",
        why=f"{STILL} answers in a row left what was left before: the broker does not give it, or has it no more.",
        todo="See that the broker is well, then begin the replay again; what comes twice is not done twice.",
    )


def send_command(command: Mapping[str, object]) -> Operation[_views.CommandTaken]:
    """Put a command on its project's topic."""
    answer = yield from send(Call("POST", path_of("commands"), json=dict(command)))
    return _views.CommandTaken.model_validate(answer.json())
