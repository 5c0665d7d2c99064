"""The request that a scoring script with raw HTTP gets."""

from cloche_runtime.scoring_http import AMLRequest, rawhttp

__all__ = ["AMLRequest", "rawhttp"]
