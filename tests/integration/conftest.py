"""What several files here share and start only once."""

import os
from collections.abc import Iterator

import pytest

from tests.environments.compose import Composed, composed
from tests.environments.places import NotPossible


@pytest.fixture(scope="session")
def composed_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """The project of compose that all tests of this run use, also those of other workers."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compose"
    root.mkdir(exist_ok=True)
    try:
        with composed(root) as found:
            yield found
    except NotPossible as error:
        pytest.skip(f"compose: {error}")
