"""The errors of `cloche.core` and `cloche.train`, by the names that users of Azure ML's SDK v1 catch.

AzureMLException                      a `ClocheError`: `code`, `what`, `why`, `todo`; `message` is all in one
├── UserErrorException                what was asked cannot be done as written
│   ├── RunConfigurationException     … because of the run's configuration
│   └── TrainingException             … because of what an Estimator was told
├── AuthenticationException           no token, or one that is not known
├── WorkspaceException                there is no such workspace (project)
├── ComputeTargetException            there is no such target, or it cannot be had here
├── RunEnvironmentException           this process belongs to no run
├── ExperimentExecutionException      a run could not be submitted
│   ├── ActivityFailedException       … or it failed
│   └── SnapshotException             … or its files could not be sent
├── ModelNotFoundException            there is no such model
├── ModelPathNotFoundException        a run left nothing under that path
└── WebserviceException               a scoring service could not be made, found or asked
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from cloche._errors import ClocheError, Unauthenticated


class AzureMLException(ClocheError):
    """What every other error of this layer is."""

    @property
    def message(self) -> str:
        """What happened, why, and what to do."""
        return super().__str__()

    def __str__(self) -> str:
        told = {"error": {"code": "UserError", "inner_error": {"code": self.code}, "message": self.message}}
        inner = "None" if self.__cause__ is None else type(self.__cause__).__name__
        parts = (
            f"{type(self).__name__}:",
            f"\tMessage: {self.message}",
            f"\tInnerException {inner}",
            f"\tErrorResponse \n{json.dumps(told, indent=4)}",
        )
        return "\n".join(parts)


class UserErrorException(AzureMLException):
    """What was asked cannot be done as written."""


class RunConfigurationException(UserErrorException):
    """A run's configuration cannot be carried out."""


class TrainingException(UserErrorException):
    """What an Estimator was told cannot be carried out."""


class AuthenticationException(AzureMLException):
    """There is no token, or one that the server does not know."""


class WorkspaceException(AzureMLException):
    """There is no such workspace."""


class ComputeTargetException(AzureMLException):
    """There is no such target, or it cannot be had here."""


class RunEnvironmentException(AzureMLException):
    """This process belongs to no run."""


class ExperimentExecutionException(AzureMLException):
    """A run could not be submitted or followed."""


class ActivityFailedException(ExperimentExecutionException):
    """A run failed."""


class SnapshotException(ExperimentExecutionException):
    """The files of a run could not be sent."""


class ModelNotFoundException(AzureMLException):
    """There is no such model."""


class ModelPathNotFoundException(AzureMLException):
    """A run left nothing under that path."""


class WebserviceException(AzureMLException):
    """A scoring service could not be made, found or asked."""


@contextmanager
def told_as(kind: type[AzureMLException]) -> Iterator[None]:
    """Turn what the server or the client refuses into an error of `kind`, code and sentences kept."""
    try:
        yield
    except AzureMLException:
        raise
    except ClocheError as error:
        chosen = AuthenticationException if isinstance(error, Unauthenticated) else kind
        raise chosen(
            error.code, error.what, why=error.why, todo=error.todo, violations=error.violations, extra=error.extra
        ) from error


__all__ = [
    "ActivityFailedException",
    "AuthenticationException",
    "AzureMLException",
    "ComputeTargetException",
    "ExperimentExecutionException",
    "ModelNotFoundException",
    "ModelPathNotFoundException",
    "RunConfigurationException",
    "RunEnvironmentException",
    "SnapshotException",
    "TrainingException",
    "UserErrorException",
    "WebserviceException",
    "WorkspaceException",
]
