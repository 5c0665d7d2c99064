"""How long the hash of a definition takes: 200 packages, written as people write them, never seen before."""

import hashlib
import random
import time
from typing import Final

import orjson

from benchmarks.core import Row, p99
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.store.hashing import definition_hash

PACKAGES: Final = 200
TIMES: Final = 300
GOAL_MS: Final = 1.0


def _definition(seeded: random.Random) -> Definition:
    """Return a definition whose lines no other has, so that nothing is remembered of them."""
    lines = [
        f"Package_{seeded.randrange(10**9)}=={seeded.randrange(30)}.{seeded.randrange(90)}" for _ in range(PACKAGES)
    ]
    return Definition(python=PythonSection(version="3.11", pip=tuple(lines)))


def rows() -> list[Row]:
    """Return the hash beside what no way could leave out: the JSON of the same, and its digest."""
    seeded = random.Random(7)  # noqa: S311 - the same definitions each time
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(TIMES):
        definition = _definition(seeded)
        began = time.perf_counter()
        definition_hash(definition, platform="linux-x86_64")
        ours.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        hashlib.sha256(orjson.dumps(definition.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()
        bare.append((time.perf_counter() - began) * 1000)
    value, against = p99(ours), p99(bare)
    goal = f"≤ {GOAL_MS:.0f} ms"
    what = f"hash of a definition of {PACKAGES} packages, p99"
    return [Row("hash", what, value, "ms", goal, TIMES, "JSON and SHA-256 alone", against, met=value <= GOAL_MS)]
