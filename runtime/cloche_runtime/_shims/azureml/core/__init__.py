"""`from azureml.core import Model, Run` for scripts written for Azure ML; everything else needs azureml-core."""

from cloche_runtime.model import Model
from cloche_runtime.run import Run

__all__ = ["Model", "Run"]
