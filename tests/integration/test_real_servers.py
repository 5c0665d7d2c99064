"""The real servers that other suites rely on: each answers its own client, with and without encryption and rights."""

import io
import ssl
import uuid

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAuthorizationFailedError
from minio import Minio
from minio.error import S3Error
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import DuplicateKeyError, OperationFailure

from tests.environments.servers import KafkaServer, MongoServer, S3Server


async def topic(server: KafkaServer) -> str:
    name = f"probe-{uuid.uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=server.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1)])
    finally:
        await admin.close()
    return name


def scram(server: KafkaServer, user: str) -> dict[str, object]:
    return {
        "bootstrap_servers": server.tls_bootstrap,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": server.mechanism,
        "sasl_plain_username": user,
        "sasl_plain_password": server.password,
        "ssl_context": ssl.create_default_context(cafile=server.authority),
    }


async def test_kafka_returns_over_tls_what_was_sent_in_plain(kafka_server: KafkaServer) -> None:
    name = await topic(kafka_server)
    async with AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap, acks="all") as producer:
        await producer.send_and_wait(name, b"value", key=b"key")
    consumer = AIOKafkaConsumer(**scram(kafka_server, kafka_server.admin), auto_offset_reset="earliest")
    async with consumer:
        consumer.assign([TopicPartition(name, 0)])
        assert (await consumer.getone()).value == b"value"


async def test_kafka_refuses_a_user_without_rights(kafka_server: KafkaServer) -> None:
    name = await topic(kafka_server)
    async with AIOKafkaProducer(**scram(kafka_server, kafka_server.service)) as producer:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(name, b"value")


@pytest.mark.parametrize("encrypted", [False, True])
async def test_the_document_store_keeps_one_of_two_equal_keys(mongo_server: MongoServer, encrypted: bool) -> None:
    client = AsyncIOMotorClient(mongo_server.tls_url if encrypted else mongo_server.url)
    name = f"probe_{uuid.uuid4().hex}"
    try:
        await client[name].events.insert_one({"_id": "a"})
        with pytest.raises(DuplicateKeyError):
            await client[name].events.insert_one({"_id": "a"})
    finally:
        await client.drop_database(name)
        client.close()


async def test_the_document_store_refuses_whoever_does_not_sign_in(mongo_server: MongoServer) -> None:
    client = AsyncIOMotorClient(f"mongodb://{mongo_server.host}/")
    try:
        with pytest.raises(OperationFailure):
            await client["probe"].events.insert_one({"_id": "a"})
    finally:
        client.close()


def bucket(server: S3Server, secret: str) -> Minio:
    return Minio(
        server.endpoint, access_key=server.access_key, secret_key=secret, region=server.region, secure=server.secure
    )


def test_s3_returns_the_object_that_was_put(s3_server: S3Server) -> None:
    client, name = bucket(s3_server, s3_server.secret_key), f"probe-{uuid.uuid4().hex}"
    client.make_bucket(name)
    client.put_object(name, "a", io.BytesIO(b"abc"), 3)
    answer = client.get_object(name, "a", offset=1, length=2)
    try:
        assert answer.read() == b"bc"
    finally:
        answer.close()
        answer.release_conn()
        client.remove_object(name, "a")
        client.remove_bucket(name)


def test_s3_refuses_a_wrong_key(s3_server: S3Server) -> None:
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        bucket(s3_server, "wrong" * 8).make_bucket("probe")
