"""The simulation must be able to fail: planted defects are found within the seeds of a run."""

import itertools

import pytest

from tests.simulation.defects import DEFECTS
from tests.simulation.play import play
from tests.simulation.test_simulation import FIRST, SEEDS

LIKELY = {
    "no fence check": (53,),
    "publish before insert": (6, 11),
    "no dedupe": (18, 19),
    "decision on a stale head": (11, 29),
    "skipped version": (3, 6),
    "double claim": (1, 8),
}
"""Seeds that are tried first, so that the test is quick; any other of the run will do as well."""


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.timeout(600)
def test_a_planted_defect_is_found(name: str) -> None:
    plant, invariant = DEFECTS[name]
    for seed in itertools.chain(LIKELY[name], range(FIRST, FIRST + SEEDS)):
        if any(violation.invariant == invariant for violation in play(seed, defect=plant()).violations):
            return
    pytest.fail(f"{name} breaks {invariant}, and no seed shows it")
