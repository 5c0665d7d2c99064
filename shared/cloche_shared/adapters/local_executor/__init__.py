"""Executor on this machine: a supervisor for each group, forked from a nursery of ours."""

from cloche_shared.adapters.local_executor.executor import LocalExecutor

__all__ = ["LocalExecutor"]
