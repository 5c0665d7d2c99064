"""What a script may use inside a run: `from cloche.core import Model, Run`."""

from cloche_runtime.model import Model
from cloche_runtime.run import Run

__all__ = ["Model", "Run"]
