"""`from azureml.core.model import Model` for scripts that were written for Azure ML."""

from cloche_runtime.model import Model

__all__ = ["Model"]
