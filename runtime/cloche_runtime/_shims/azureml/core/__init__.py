"""`from azureml.core import Run` for scripts that were written for Azure ML; everything else needs azureml-core."""

from cloche_runtime.run import Run

__all__ = ["Run"]
