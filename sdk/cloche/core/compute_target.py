"""The error of compute targets, where old code imports it from."""

from cloche.exceptions import ComputeTargetException

__all__ = ["ComputeTargetException"]
