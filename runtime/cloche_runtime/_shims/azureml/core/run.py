"""`from azureml.core.run import Run` for scripts that were written for Azure ML."""

from cloche_runtime.run import Run

__all__ = ["Run"]
