"""What an error of the document store's client means: that nothing was done, or that nobody can tell.

The driver's own texts may hold addresses, names and parts of documents: they are looked at, never shown.
"""

from typing import Final

from pymongo.errors import (
    ConfigurationError,
    DocumentTooLarge,
    OperationFailure,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from cloche_shared.errors import ClocheError, Invalid, Unavailable
from cloche_shared.ports.journal import OutcomeUnknownError

MOST_BYTES: Final = 15 << 20
"""Of one document; the server's own limit is 16 MiB."""
DUPLICATE: Final = 11000

_AUTH_CODES: Final = frozenset((13, 18, 8000))
_INTERNAL: Final = 1
_AUTH_TEXTS: Final = ("SQLSTATE 28P01", "SQLSTATE 28000")
"""FerretDB gives what PostgreSQL said of the credentials in the text of an internal error."""
_REFUSALS: Final = frozenset((2, 9, 14, 22, 26, 59, 72, 121, 238, 10334, 14031, DUPLICATE))
"""Codes of MongoDB that say that a command was not carried out: bad or unknown, document invalid, disk full."""
_TLS_TEXTS: Final = ("SSL", "CERTIFICATE", "certificate")


def is_auth(error: BaseException | None) -> bool:
    """Whether a server refuses the credentials."""
    if not isinstance(error, OperationFailure):
        return False
    told = error.code == _INTERNAL and any(text in str(error) for text in _AUTH_TEXTS)
    return told or error.code in _AUTH_CODES


def unavailable(error: Exception) -> ClocheError:
    """Return what users see when something was surely not done."""
    if is_auth(error):
        todo = "See mongo.username and mongo.password_file."
        return Unavailable("store_auth", "The document store refuses the credentials.", todo=todo)
    if isinstance(error, DocumentTooLarge):
        return too_large()
    why = type(error).__name__
    if isinstance(error, ServerSelectionTimeoutError) and any(text in str(error) for text in _TLS_TEXTS):
        why = "No encrypted connection came about; see mongo.tls and mongo.ca_file."
    todo = "Try again; nothing was lost."
    return Unavailable("store_unavailable", "The document store does not answer.", why=why, todo=todo)


def of_write(error: Exception) -> Exception:
    """Return what a failed write means. Only where the server was not asked, or refused, was nothing written."""
    if isinstance(error, (ServerSelectionTimeoutError, WaitQueueTimeoutError, ConfigurationError, DocumentTooLarge)):
        return unavailable(error)
    refused = isinstance(error, OperationFailure) and not isinstance(error, WriteConcernError)
    if refused and (is_auth(error) or getattr(error, "code", None) in _REFUSALS):
        return unavailable(error)
    return OutcomeUnknownError(f"the document store did not say whether it wrote: {type(error).__name__}")


def lasting(error: ClocheError) -> ClocheError:
    """Return the error as one that waiting does not mend, where that is so."""
    if isinstance(error, Unavailable) and error.code == "store_auth":
        return Invalid(error.code, error.what, why=error.why, todo=error.todo)
    if isinstance(error.__cause__, ConfigurationError):
        return unsuitable("This version of its protocol is not spoken any more.")
    return error


def unsuitable(why: str) -> Invalid:
    """Return the error for a server that does not do what everything rests on."""
    todo = "Use MongoDB 5 or later, or a server that is compatible with it."
    return Invalid("store_unsuitable", "The document store cannot be used.", why=why, todo=todo)


def bad_settings(error: Exception) -> Invalid:
    """Return the error for settings that the client does not take; the error itself may quote them."""
    what = "The settings of the document store are not valid."
    return Invalid("invalid_setting", what, why=type(error).__name__, todo="See the section mongo of the settings.")


def too_large() -> Invalid:
    """Return the error for a document over the limit."""
    return Invalid(
        "document_too_large",
        f"A document is larger than {MOST_BYTES} bytes.",
        todo="Large parts belong into blobs.",
    )
