"""Dead letters that were sent again: `letter/<project>/<id>`, so that whoever did it is on record."""

from pydantic import BaseModel, ConfigDict

from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.facts import DeadLetterResent


class Resent(BaseModel):
    """How often a letter was sent again."""

    model_config = ConfigDict(frozen=True)

    times: int = 0


def evolve(state: Resent, fact: Fact) -> Resent:
    """Return the state after a fact."""
    return Resent(times=state.times + 1) if isinstance(fact, DeadLetterResent) else state
