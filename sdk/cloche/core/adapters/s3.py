"""Folders of S3 buckets, read by minio's client."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from cloche._errors import Invalid, NotFound, Unavailable
from cloche._files import MAX_BYTES, MAX_FILES, safe_join
from cloche.core._notes import unavailable
from cloche.exceptions import UserErrorException, told_as


def fetch_tree(said: Mapping[str, str], inside: str, scratch: Path) -> Path:
    """Copy what lies below a prefix of a bucket to a folder; return the folder, or the one file that was meant.

    Raises `UserErrorException` (`data_not_found`, `data_unreachable`, `snapshot_too_large`).
    """
    try:
        from minio import Minio  # noqa: PLC0415 - an extra that only buckets need
        from minio.error import MinioException  # noqa: PLC0415 - the same
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - what minio raises for a server that is away
    except ImportError as error:
        todo = "Install it: pip install 'cloche[cluster]'."
        raise unavailable("A datastore in S3 without minio's client", "It reads buckets.", todo) from error
    place = urlsplit(said["endpoint"])
    client = Minio(
        place.netloc,
        access_key=os.environ.get("AWS_ACCESS_KEY_ID"),
        secret_key=os.environ.get("AWS_SECRET_ACCESS_KEY"),
        session_token=os.environ.get("AWS_SESSION_TOKEN"),
        secure=place.scheme == "https",
        region=said["region"],
    )
    prefix = "/".join(part for part in (said["prefix"], inside) if part)
    with told_as(UserErrorException):
        try:
            return _fetched(client, said["bucket"], prefix, scratch)
        except (MinioException, HTTPError) as error:
            raise Unavailable(
                "data_unreachable",
                f"The bucket {said['bucket']} at {said['endpoint']} cannot be read.",
                why=f"{error}"[:500],
                todo="See that it is there, and that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY open it.",
            ) from error


def _fetched(client: "object", bucket: str, prefix: str, scratch: Path) -> Path:
    from minio import Minio  # noqa: PLC0415 - as above

    assert isinstance(client, Minio)  # noqa: S101 - typed where the library is there
    total = 0
    names: list[str] = []
    for item in client.list_objects(bucket, prefix=prefix, recursive=True):
        name = item.object_name or ""
        rest = name[len(prefix) :]
        if item.is_dir or name.endswith("/") or (prefix and rest and not rest.startswith("/")):
            continue
        total += item.size or 0
        names.append(name)
        if len(names) > MAX_FILES or total > MAX_BYTES:
            raise Invalid("snapshot_too_large", f"{bucket}/{prefix} has too many files or bytes to travel with a run.")
    if not names:
        raise NotFound("data_not_found", f"The bucket {bucket} has nothing below {prefix or '/'}.")
    for name in names:
        inside = name[len(prefix) :].strip("/") or name.rpartition("/")[2]
        client.fget_object(bucket, name, str(safe_join(scratch, inside)))
    return scratch / names[0].rpartition("/")[2] if names == [prefix] else scratch


__all__ = ["fetch_tree"]
