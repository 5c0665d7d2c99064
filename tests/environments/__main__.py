"""The command `python -m tests.environments`: what the tests' real servers need, set up and taken away."""

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable

from tests.environments import build, engine, sharing
from tests.environments.catalogue import ROLES
from tests.environments.places import NotPossible, say
from tests.environments.starts import START


def building(roles: list[str]) -> None:
    """Set up the engine and the images of the roles; print what compose.yaml and the docker command need."""
    client = engine.up()
    for name, image in build.images(client, [ROLES[name] for name in roles or ROLES]).items():
        say(f"{name}: {image}")


def possibly(roles: list[str]) -> None:
    """Set up what can be had here; the tests that need the rest say so when they are skipped."""
    try:
        building(roles)
    except NotPossible as error:
        say(f"tests on real servers will be skipped: {error}")


def environment() -> None:
    """Print the shell's lines that choose the engine and the images: eval "$(python -m tests.environments env)"."""
    client = engine.client()
    chosen = {name: value for name, value in engine.chosen().items() if value}
    for role in ROLES.values():
        image = build.found(client, role)
        if image:
            chosen[role.variable] = image
    for name, value in chosen.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def up(roles: list[str]) -> None:
    """Build what is missing and start servers that stay."""
    building(roles)
    for server in sharing.up([role for role in roles or START if role in START]).values():
        say(f"{server.role}: {server.product} runs")
    status()


def status() -> None:
    """Print the engine, the image of each role, and the shared servers with their passwords, as JSON."""
    client = engine.client()
    shared = {role: sharing.running(role) for role in START}
    told = {
        "engine": client.api.base_url if not engine.ours() else f"unix://{engine.SOCKET}",
        "images": {name: build.found(client, role) for name, role in ROLES.items()},
        "servers": {role: server and dataclasses.asdict(server) for role, server in shared.items()},
        "containers": [found.name for found in sharing.containers()],
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")


def down() -> None:
    """Stop the servers that `up` started, unless a test run uses them."""
    if engine.answers():
        sharing.down(everything=False)


def clean() -> None:
    """Remove every container that tests started, and stop the engine if it is ours. Images stay."""
    if engine.answers():
        sharing.down(everything=True)
    engine.down()


def rest() -> None:
    """Clean up after runs that are gone; stop the engine if it is ours and nothing uses it.

    On an engine of ours a container that nobody owns was left by a test, and that is an error.
    """
    if not engine.answers():
        return
    sharing.sweep()
    strangers = sharing.strangers() if engine.ours() else []
    if strangers:
        raise NotPossible(f"Tests left containers behind: {', '.join(strangers)}.")
    left = [found.name for found in sharing.containers()]
    if left:
        say(f"still in use: {', '.join(left)}")
    else:
        engine.down()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.environments", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    for name, text in (("build", building.__doc__), ("up", up.__doc__)):
        each = commands.add_parser(name, help=text)
        each.add_argument("roles", nargs="*", metavar="ROLE")
        each.add_argument("--if-possible", action="store_true", help="succeed where something cannot be had")
    for name, text in (
        ("env", environment.__doc__),
        ("status", status.__doc__),
        ("down", down.__doc__),
        ("rest", rest.__doc__),
        ("clean", clean.__doc__),
        ("watch", "Clean up after test runs that end or crash, then leave."),
    ):
        commands.add_parser(name, help=text)
    return made


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "build": lambda asked: possibly(asked.roles) if asked.if_possible else building(asked.roles),
    "up": lambda asked: up(asked.roles),
    "env": lambda _: environment(),
    "status": lambda _: status(),
    "down": lambda _: down(),
    "rest": lambda _: rest(),
    "clean": lambda _: clean(),
    "watch": lambda _: sharing.watch(),
}


def main() -> int:
    asked = parser().parse_args()
    unknown = set(getattr(asked, "roles", ())) - set(ROLES)
    if unknown:
        sys.stderr.write(f"No role is named {', '.join(sorted(unknown))}; there are {', '.join(ROLES)}.\n")
        return 2
    try:
        COMMANDS[asked.command](asked)
    except NotPossible as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
