"""`from cloche.core.model import Model` inside a run."""

from cloche_runtime.model import Model

__all__ = ["Model"]
