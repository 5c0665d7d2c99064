"""The simulation must be able to fail: planted defects are found within the seeds of a run."""

import itertools

import pytest

from tests.simulation.defects import DEFECTS
from tests.simulation.play import play
from tests.simulation.test_simulation import FIRST, SEEDS

LIKELY = {
    "no fence check": (62, 67, 84),
    "publish before insert": (0, 1),
    "no dedupe": (7, 10),
    "decision on a stale head": (23, 34),
    "skipped version": (0, 1),
    "double claim": (1, 5),
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
