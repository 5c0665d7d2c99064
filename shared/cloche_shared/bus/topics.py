"""Which topics a subscription's names mean, on every bus alike."""

from typing import Final

ANY: Final = "*"
DEAD: Final = ".dead"


def is_pattern(name: str) -> bool:
    """Whether a name stands for all topics that begin so: `cloche.commands.*`."""
    return name.endswith(ANY)


def names(name: str, topic: str) -> bool:
    """Whether a subscription to `name` gets what comes on `topic`; a pattern never means dead letters."""
    if not is_pattern(name):
        return name == topic
    return topic.startswith(name.removesuffix(ANY)) and not topic.endswith(DEAD)
