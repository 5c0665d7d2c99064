"""What every service may answer."""

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.references import (
    Problem,
)


class CommandRefused(Fact):
    """Answer: a command was understood and refused."""

    problem: Problem
