"""`SKLearn`: an Estimator whose scripts need scikit-learn."""

from typing import Any

from cloche.train._frameworks import with_package
from cloche.train.estimator import Estimator


class SKLearn(Estimator):
    """An Estimator with scikit-learn of conda; options are those of `Estimator`."""

    def __init__(self, source_directory: str, *, framework_version: str | None = None, **options: Any) -> None:
        super().__init__(source_directory, **with_package("scikit-learn", framework_version, options))


__all__ = ["SKLearn"]
