"""Who may do what with the bucket: every service reads all of it, and writes below its own name alone."""

import json
from collections.abc import Sequence
from typing import Final

_BUCKET: Final = ("s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads")
_READ: Final = ("s3:GetObject",)
_WRITE: Final = ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")


def bucket_policy(bucket: str, services: Sequence[str]) -> str:
    """Return the policy (JSON) that gives each service, by its access key's name, what it needs.

    What nobody was given is denied.
    """
    whole = f"arn:aws:s3:::{bucket}"
    statements = [
        _statement(services, _BUCKET, whole),
        _statement(services, _READ, f"{whole}/*"),
        *(_statement([service], _WRITE, f"{whole}/{service}/*") for service in services),
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _statement(services: Sequence[str], actions: Sequence[str], resource: str) -> dict[str, object]:
    return {"Effect": "Allow", "Principal": {"AWS": [*services]}, "Action": [*actions], "Resource": [resource]}
