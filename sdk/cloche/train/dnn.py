"""Estimators whose scripts need a framework of deep learning, by pip."""

from typing import Any

from cloche.train._frameworks import with_package
from cloche.train.estimator import Estimator


class TensorFlow(Estimator):
    """An Estimator with TensorFlow; options are those of `Estimator`."""

    def __init__(self, source_directory: str, *, framework_version: str | None = None, **options: Any) -> None:
        super().__init__(source_directory, **with_package("tensorflow", framework_version, options, by="pip"))


class PyTorch(Estimator):
    """An Estimator with PyTorch; options are those of `Estimator`."""

    def __init__(self, source_directory: str, *, framework_version: str | None = None, **options: Any) -> None:
        super().__init__(source_directory, **with_package("torch", framework_version, options, by="pip"))


class Chainer(Estimator):
    """An Estimator with Chainer; options are those of `Estimator`."""

    def __init__(self, source_directory: str, *, framework_version: str | None = None, **options: Any) -> None:
        super().__init__(source_directory, **with_package("chainer", framework_version, options, by="pip"))


__all__ = ["Chainer", "PyTorch", "TensorFlow"]
