"""The errors that all blob adapters raise alike."""

import errno

from cloche_shared.errors import ClocheError, Internal, Invalid, NotFound, TooLarge, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def blob_not_found(digest: str) -> NotFound:
    return NotFound("blob_not_found", f"There is no blob {digest}.", todo="Send its content again.")


def digest_mismatch(wanted: str, found: str) -> Invalid:
    return Invalid(
        "digest_mismatch",
        "The bytes are not those that were announced.",
        why=f"Announced was {wanted}, received was {found}.",
        todo="Send them again; if it happens again, the source has changed.",
        extra={"expected": wanted, "actual": found},
    )


def over_limit(limit: int) -> TooLarge:
    return TooLarge("too_large", f"There are more than {limit} bytes.", todo="Send less, or raise the limit.")


def blob_corrupt(digest: str) -> Internal:
    return Internal(
        "blob_corrupt",
        f"The stored blob {digest} no longer has its content.",
        why="Its file was changed on disk.",
        todo="Delete it, so that it is fetched again.",
    )


def disk_error(error: OSError) -> ClocheError:
    """Return what users see when a file operation failed: `disk_full`, else `storage_failed`."""
    if error.errno in _FULL:
        return Unavailable(
            "disk_full",
            "There is no room left on the disk.",
            why=error.strerror or "",
            todo="Free some space, then try again.",
        )
    return Unavailable(
        "storage_failed",
        "The disk refused an operation.",
        why=error.strerror or "",
        todo="See that the data folder is writable and healthy, then try again.",
    )
