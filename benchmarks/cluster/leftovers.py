"""What a benchmark leaves on servers that others use too: databases, topics, groups, buckets. It is removed here."""

from typing import Final

from confluent_kafka.admin import AdminClient
from minio import Minio
from minio.deleteobjects import DeleteObject
from pymongo import MongoClient

from tests.environments.servers import KafkaServer, MongoServer, S3Server

ANSWER_S: Final = 30.0


def remove_installation(name: str, kafka: KafkaServer, mongo: MongoServer, s3: S3Server) -> None:
    """Remove what an installation of that name has on the servers; nothing of it may run any more."""
    remove_topics(kafka, f"{name}.")
    remove_databases(mongo, f"{name}_")
    remove_bucket(s3, name)


def remove_topics(kafka: KafkaServer, prefix: str) -> None:
    """Remove the topics and the groups whose names begin like this."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    topics = [topic for topic in admin.list_topics(timeout=ANSWER_S).topics if topic.startswith(prefix)]
    found = admin.list_consumer_groups(request_timeout=ANSWER_S).result()
    groups = [one.group_id for one in found.valid if one.group_id.startswith(prefix)]
    # the client fills the mappings that it returned, so they are left as they are
    removed = [admin.delete_consumer_groups(groups, request_timeout=ANSWER_S)] if groups else []
    if topics:
        removed.append(admin.delete_topics(topics, request_timeout=ANSWER_S))
    for removals in removed:
        for removal in removals.values():
            removal.result()


def remove_databases(mongo: MongoServer, prefix: str) -> None:
    """Remove the databases whose names begin like this."""
    with MongoClient[dict[str, object]](mongo.url) as client:
        for name in client.list_database_names():
            if name.startswith(prefix):
                client.drop_database(name)


def remove_bucket(s3: S3Server, name: str) -> None:
    """Remove a bucket with what is in it, if it is there."""
    client = Minio(s3.endpoint, access_key=s3.access_key, secret_key=s3.secret_key, region=s3.region, secure=s3.secure)
    if not client.bucket_exists(name):
        return
    found = client.list_objects(name, recursive=True)
    left = list(client.remove_objects(name, (DeleteObject(one.object_name or "") for one in found)))
    assert not left, left
    client.remove_bucket(name)
