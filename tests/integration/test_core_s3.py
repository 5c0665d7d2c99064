"""A folder of an S3 bucket as a datastore: read with the keys of the environment, and told of when it is away."""

import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio

from cloche.core import Datastore, Workspace
from cloche.exceptions import UserErrorException
from tests.environments.servers import S3Server
from tests.unit.core.scripted import scripted


@pytest.fixture
def bucket(one_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of this test's own with three files; the environment holds its keys."""
    server = one_s3_server
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    client = Minio(server.endpoint, access_key=server.access_key, secret_key=server.secret_key, secure=False)
    name = f"t-{uuid.uuid4().hex}"
    client.make_bucket(name)
    keys = ("top/data/a.csv", "top/data/deep/b.csv", "top/database.csv")
    for key in keys:
        client.put_object(name, key, io.BytesIO(key.encode()), len(key))
    yield name
    for key in keys:
        client.remove_object(name, key)
    client.remove_bucket(name)


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with scripted(tmp_path / "home") as (found, _):
        yield found


def store_of(ws: Workspace, bucket: str, endpoint: str) -> Datastore:
    return Datastore.register_s3(ws, "far", bucket, endpoint=f"http://{endpoint}", prefix="/top/")


def test_a_folder_of_a_bucket_is_read_and_nothing_beside_it(
    ws: Workspace, bucket: str, one_s3_server: S3Server, tmp_path: Path
) -> None:
    store = store_of(ws, bucket, one_s3_server.endpoint)
    with store.path("data").local() as folder:
        found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.csv")}
    assert found == {"a.csv": "top/data/a.csv", "deep/b.csv": "top/data/deep/b.csv"}
    with store.path("data/a.csv").local() as file:
        assert (file.name, file.read_text()) == ("a.csv", "top/data/a.csv")
    assert store.download(tmp_path / "got") == 3
    assert (store.datastore_type, store.container_name) == ("s3", bucket)
    with pytest.raises(UserErrorException) as caught:
        store.upload(tmp_path)
    assert caught.value.code == "not_available"


def test_what_a_bucket_lacks_and_a_bucket_that_is_not_there_are_told_apart(
    ws: Workspace, bucket: str, one_s3_server: S3Server
) -> None:
    with pytest.raises(UserErrorException) as caught, store_of(ws, bucket, one_s3_server.endpoint).path("no").local():
        pass
    assert caught.value.code == "data_not_found"
    missing = store_of(ws, f"t-{uuid.uuid4().hex}", one_s3_server.endpoint)
    with pytest.raises(UserErrorException) as caught, missing.as_mount().local():
        pass
    assert caught.value.code == "data_unreachable"
