"""Every consumer group of the four services, and what it reads: by name, for operators (`cloche events replay`)."""

from collections.abc import Mapping, Sequence
from typing import Final

from cloche_shared.contracts.commands import EVERY_TOPIC
from cloche_shared.contracts.facts import TOPICS

_COMMANDS: Final = (EVERY_TOPIC, TOPICS["answers"])

GROUPS: Final[Mapping[str, Sequence[str]]] = {
    "builder": (TOPICS["run"], TOPICS["service"], TOPICS["build"], TOPICS["answers"]),
    "builder.commands": _COMMANDS,
    "builder.lists": (TOPICS["build"],),
    "deployer": (TOPICS["answers"], TOPICS["node"]),
    "deployer-driver": (TOPICS["service"],),
    "deployer-views": (TOPICS["service"],),
    "deployer.commands": _COMMANDS,
    "registry.commands": _COMMANDS,
    "registry.lists": (TOPICS["environment"], TOPICS["model"], TOPICS["access"]),
    "registry.projects": (TOPICS["access"],),
    "registry.resolver": (TOPICS["run"], TOPICS["service"], TOPICS["buildrequest"]),
    "registry.runs": (TOPICS["run"], TOPICS["service"]),
    "registry.uses": (TOPICS["usage"],),
    "runner": (TOPICS["answers"], TOPICS["service"]),
    "runner.commands": _COMMANDS,
    "runner.views": (TOPICS["run"], TOPICS["node"]),
}
