"""Broker, store and S3 down when the services start, in the middle of a job, killed under load, and held."""

import time
from collections.abc import Callable

from tests.faults.collected import Judged
from tests.faults.load import Load

LOAD_S = 5.0
"""How long clients work before and after a fault."""


def test_a_load_without_faults_breaks_nothing(load: Load, verdict: Callable[[], Judged]) -> None:
    with load.going():
        time.sleep(LOAD_S)
    found = verdict()
    assert found.counts["acknowledged"] > 0
    assert found.topics.duplicates == 0
    assert set(load.told.statuses) <= {"200", "201", "202", "404", "409"}
