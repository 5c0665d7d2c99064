"""What the bucket's policy gives to each service."""

import json
from fnmatch import fnmatch

from cloche_shared.adapters.s3_blobs import UPLOADS
from cloche_shared.bus.rights import SERVICES
from cloche_shared.cluster.provision.blob_rights import bucket_policy


def allowed(user: str, action: str, key: str) -> bool:
    return any(
        statement["Effect"] == "Allow"
        and user in statement["Principal"]["AWS"]
        and action in statement["Action"]
        and any(fnmatch(f"arn:aws:s3:::cloche{key}", one) for one in statement["Resource"])
        for statement in json.loads(bucket_policy("cloche", SERVICES))["Statement"]
    )


def test_every_service_reads_all_and_lists_the_bucket() -> None:
    for user in SERVICES:
        assert allowed(user, "s3:ListBucket", "")
        assert all(allowed(user, "s3:GetObject", f"/{owner}/default/ab/abc") for owner in SERVICES)


def test_each_service_writes_below_its_own_name_alone_uploads_included() -> None:
    written = {
        (user, owner)
        for user in SERVICES
        for owner in (*SERVICES, "other")
        for action in ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
        for key in (f"/{owner}/default/ab/abc", f"/{owner}/{UPLOADS}/1", f"/{UPLOADS}/1")
        if allowed(user, action, key)
    }
    assert written == {(user, user) for user in SERVICES}
    assert all(allowed(user, "s3:PutObject", f"/{user}/{UPLOADS}/1") for user in SERVICES)


def test_nobody_else_has_any_right() -> None:
    assert not allowed("producer", "s3:GetObject", "/runner/default/ab/abc")
    assert not allowed("runner", "s3:PutBucketPolicy", "")
