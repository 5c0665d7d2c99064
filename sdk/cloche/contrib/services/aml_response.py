"""The response that a scoring script with raw HTTP returns."""

from cloche_runtime.scoring_http import AMLResponse

__all__ = ["AMLResponse"]
