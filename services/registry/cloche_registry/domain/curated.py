"""Curated environments: starters that every project has, under a prefix that nobody else may register below.

They are no documents until somebody uses one: the first reference to it makes it a version of the project like
any other, with the same hash everywhere. A newer Cloche's definition becomes the next version when it is used.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from cloche_registry.domain.environments import (
    LATEST,
    Environment,
    EnvironmentVersion,
    decide_register,
    evolve,
    resolve,
)
from cloche_shared.contracts.definition import Definition, PythonSection
from cloche_shared.contracts.fact import Fact
from cloche_shared.contracts.references import EnvironmentRef, ResolvedEnvironment

AUTHOR: Final = "cloche"
CURATED: Final[Mapping[str, Definition]] = MappingProxyType(
    {
        "Cloche-Minimal": Definition(description="Python alone: to start from, and for scripts that need no package."),
        "Cloche-Sklearn": Definition(
            python=PythonSection(
                pip=(
                    "joblib==1.4.2",
                    "numpy==2.1.3",
                    "pandas==2.2.3",
                    "scikit-learn==1.5.2",
                    "scipy==1.14.1",
                ),
            ),
            description="scikit-learn with what it is commonly used with.",
        ),
    }
)
"""The definitions by name."""

Make = Callable[[Definition, str], EnvironmentVersion]
"""Returns the version that a definition by somebody would be."""


def as_found(state: Environment, name: str, make: Make) -> Environment:
    """Return an environment as those see it who look for it: a curated one that nobody used has its first version."""
    if state.versions or name not in CURATED:
        return state
    return Environment(versions=(make(CURATED[name], AUTHOR).model_copy(update={"created_at": ""}),))


def decide_use(state: Environment, ref: EnvironmentRef, make: Make) -> tuple[list[Fact], ResolvedEnvironment]:
    """Return what is recorded when an environment is referred to, and what the reference means.

    Nothing is recorded but for curated ones: their version where there is none, and the newest definition where the
    latest is meant. Raises as `resolve` does.
    """
    facts: list[Fact] = []
    latest = ref.version is None and ref.label in {None, LATEST}
    if ref.name in CURATED and not state.deleted and (latest or not state.versions):
        facts.extend(decide_register(state, ref.name, make(CURATED[ref.name], AUTHOR)).facts)
    for fact in facts:
        state = evolve(state, fact)
    found = resolve(state, ref)
    return facts, found.model_copy(update={"registered": bool(facts)})
