"""`docker compose up`: the README's commands through its gateway, hardening, and what ends in the middle of a run."""

import asyncio
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError

from tests.environments.compose import SERVICES, Composed
from tests.environments.places import locked

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

OURS = (*SERVICES, "executor")
METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192")
"""Where clouds tell a machine its secrets."""
WINE = '{"data": [[13.2, 1.78, 2.14, 11.2, 100, 2.65, 2.76, 0.26, 1.28, 4.38, 1.05, 3.4, 1050]]}'
LOOK = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def fails(action):
    try:
        action()
    except OSError as error:
        return error.strerror
    return "worked"
print(json.dumps({
    "uid": os.getuid(),
    "caps": int(status["CapEff"], 16),
    "no_new_privs": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]),
    "root": fails(lambda: open("/mark", "w")),
    "code": fails(lambda: open("/opt/cloche/mark", "w")),
}))
"""
SPY = """
import errno, json, os, pathlib, socket, time
def reached(name, port):
    try:
        with socket.create_connection((name, port), timeout=2):
            return True
    except OSError:
        return False
def refused(address):
    began = time.monotonic()
    try:
        socket.create_connection((address, 80), timeout=2).close()
    except OSError as error:
        return error.errno == errno.EHOSTUNREACH and time.monotonic() - began < 1
    return False
def read(path):
    try:
        return pathlib.Path(path).read_bytes() != b""
    except OSError:
        return False
places = [("kafka", 9092), ("kafka", 9091), ("mongo", 27017), ("s3", 7070), ("registry", 8571), ("runner", 8571)]
print("FOUND " + json.dumps({
    "uid": os.getuid(),
    "variables": sorted(name for name in os.environ if name.startswith("CLOCHE_") and name.count("__")),
    "reached": [name for name, port in [*places, *map(tuple, json.loads(os.environ["PLACES"]))] if reached(name, port)],
    "metadata": [one for one in json.loads(os.environ["METADATA"]) if not refused(one)],
    "secrets": [str(path) for path in pathlib.Path("/run").rglob("*") if "secret" in path.name and read(path)],
    "others": [pid for pid in os.listdir("/proc") if pid.isdigit() and pid == "1" and read(f"/proc/{pid}/environ")],
}))
"""
SECRETS = """
import json, pathlib
names = {"token", "pepper", "secret-key", "mongo-login", "root-password", "kafka-password", "s3-password"}
found = set()
for path in pathlib.Path("/secrets").rglob("*"):
    if path.name in names:
        found.add(path.read_text().strip())
    elif path.name in {"server.pem", "ca-key.pem"}:
        found |= set(path.read_text().partition("-----END")[0].splitlines()[1:])
print(json.dumps(sorted(found)))
"""
WRITER = """
import io, json, os, urllib3
from minio import Minio
from minio.error import S3Error
def read(name):
    with open(os.environ[name]) as file:
        return file.read().strip()
client = Minio("s3:7070", access_key=os.environ["CLOCHE_S3__ACCESS_KEY"], secret_key=read("CLOCHE_S3__SECRET_KEY_FILE"),
    region="us-east-1", http_client=urllib3.PoolManager(ca_certs=os.environ["CLOCHE_S3__CA_FILE"]))
def tried(action):
    try:
        action()
    except S3Error as error:
        return error.code
    return ""
print(json.dumps({
    "own": tried(lambda: client.put_object("cloche", "runner/mark", io.BytesIO(b"x"), 1)),
    "another's": tried(lambda: client.put_object("cloche", "builder/mark", io.BytesIO(b"x"), 1)),
    "rights": tried(lambda: client.delete_bucket_policy("cloche")),
    "bucket": tried(lambda: client.make_bucket("another")),
    "back": tried(lambda: client.remove_object("cloche", "runner/mark")),
}))
"""
SLOW = "import time\nfor n in range({seconds}):\n    print('tick', n, flush=True)\n    time.sleep(1)\n"


@pytest.fixture
def project(composed_once: Composed) -> Composed:
    return composed_once


@pytest.fixture
def environment(project: Composed) -> str:
    return project.cloche("env", "register", "quickstart", "-r", "examples/quickstart/requirements.txt")


def run_of(said: str) -> str:
    found = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", said)
    assert found, said
    return found.group()


def inspected(project: Composed, service: str) -> dict[str, Any]:
    found: dict[str, Any] = project.container(service).attrs
    return found


def test_the_readmes_commands_work_through_the_gateway(project: Composed, environment: str) -> None:
    said = project.cloche("submit", "examples/quickstart/train.py", "--env", "quickstart", "--follow")
    assert "wrote outputs/model.pkl" in said
    run = run_of(said)
    project.cloche("model", "register", "quickstart", "--from-run", run, "--path", "outputs/model.pkl")
    deploy = ("examples/quickstart/score.py", "--model", "quickstart", "--env", "quickstart", "--name", "quickstart")
    assert "Healthy" in project.cloche("deploy", *deploy)
    assert "barolo" in project.cloche("score", "quickstart", WINE)
    assert "ready" in project.cloche("status")


def test_one_address_serves_one_document_with_the_routes_of_all(project: Composed) -> None:
    found = httpx2.get(f"{project.url}/openapi.json").json()["paths"]
    assert {"/api/v1/environments", "/api/v1/builds", "/api/v1/runs", "/api/v1/services"} <= set(found)
    for path in ("environments", "models", "builds", "runs", "nodes", "services"):
        answer = httpx2.get(f"{project.url}/api/v1/{path}", headers={"authorization": f"Bearer {project.token}"})
        assert answer.status_code == 200, path
        assert httpx2.get(f"{project.url}/api/v1/{path}").status_code == 401, path


@pytest.mark.parametrize("service", OURS)
def test_containers_of_ours_are_held_as_tightly_as_the_engine_can(project: Composed, service: str) -> None:
    found = inspected(project, service)
    host = found["HostConfig"]
    assert found["Config"]["User"] == ("10002:10000" if service == "executor" else "10001:10000")
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert 0 < host["PidsLimit"] <= 4096
    assert not host["Privileged"]
    assert not host["Devices"]
    assert not host["PortBindings"]
    assert {host["PidMode"], host["UTSMode"], host["UsernsMode"]} == {""}
    assert not any("docker.sock" in mount["Source"] for mount in found["Mounts"])
    seen = json.loads(project.inside(service, LOOK))
    assert seen["caps"] == 0
    assert (seen["no_new_privs"], seen["seccomp"]) == (1, 2)
    assert {seen["root"], seen["code"]} == {"Read-only file system"}


def test_only_loopback_is_listened_at(project: Composed) -> None:
    bound = [
        binding["HostIp"]
        for service in (*OURS, "kafka", "mongo", "s3", "gateway")
        for bindings in (inspected(project, service)["HostConfig"]["PortBindings"] or {}).values()
        for binding in bindings
    ]
    assert bound == ["127.0.0.1", "127.0.0.1"]


def test_no_secret_is_in_descriptions_arguments_logs_or_answers(project: Composed, environment: str) -> None:
    found = project.compose("run", "--rm", "--no-deps", "--entrypoint", "python", "secrets", "-c", SECRETS)
    secrets = set(json.loads(found.splitlines()[-1]))
    assert len(secrets) >= 20
    assert project.token in secrets
    shown = project.compose("logs", "--no-color") + project.compose("config")
    shown += project.cloche("events", "tail", "--from-start", "--no-follow", "--json")
    for service in (*OURS, "kafka", "mongo", "s3", "gateway", "fence", "secrets", "provision"):
        shown += json.dumps(inspected(project, service)) + json.dumps(project.container(service).image.history())
        if service not in {"secrets", "provision"}:
            shown += json.dumps(project.container(service).top())
    for service in SERVICES:
        shown += project.compose("exec", "-T", service, *settings_of(service))
    for token in (project.token, project.token + "x"):
        headers = {"authorization": f"Bearer {token}", "cloche-position": token, "idempotency-key": "x" * 300}
        shown += httpx2.post(f"{project.url}/api/v1/environments", headers=headers, json={"name": token}).text
    assert [secret[:4] + "…" for secret in secrets if secret in shown] == []


def settings_of(service: str) -> list[str]:
    file = ("--config", "/run/cloche-secrets/config.toml")
    return ["python", "-m", f"cloche_{service}", *file, "config", "show", "--sources"]


def test_a_program_sees_no_secret_and_no_store(project: Composed, environment: str, tmp_path: Path) -> None:
    script = tmp_path / "spy.py"
    networks = {name: inspected(project, name)["NetworkSettings"]["Networks"] for name in ("kafka", "mongo", "s3")}
    ports = {"kafka": 9092, "mongo": 27017, "s3": 7070}
    places = [[one["IPAddress"], ports[name]] for name, all_of in networks.items() for one in all_of.values()]
    told = {"PLACES": json.dumps(places), "METADATA": json.dumps(METADATA)}
    script.write_text(f"import os\nos.environ |= {told}\n{SPY}")
    said = project.cloche("submit", str(script), "--env", "quickstart", "--follow")
    found = json.loads(said.partition("FOUND ")[2].splitlines()[0])
    assert found == {"uid": 10002, "variables": [], "reached": [], "metadata": [], "secrets": [], "others": []}


def test_a_service_writes_its_own_blobs_and_no_others(project: Composed) -> None:
    said = json.loads(project.inside("runner", WRITER))
    denied = "AccessDenied"
    assert said == {"own": "", "another's": denied, "rights": denied, "bucket": denied, "back": ""}


@pytest.fixture
def executor_alone() -> Iterator[None]:
    """Keep tests apart, also those of other workers, of which one needs the executor to live and one ends it."""
    with locked("compose-executor"):
        yield


@pytest.mark.usefixtures("executor_alone")
def test_a_run_goes_on_while_each_service_is_killed_and_comes_back(
    project: Composed, environment: str, tmp_path: Path
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(seconds=60))
    run = run_of(project.cloche("submit", str(script), "--env", "quickstart"))
    project.wait(lambda: "tick" in project.cloche("logs", run, ok=False), "the run to begin")
    for service in SERVICES:
        project.crash(service)
    project.wait(lambda: "Completed" in project.cloche("run", "show", run, ok=False), "the run to end")
    log = project.cloche("logs", run)
    assert [line for line in log.splitlines() if line.startswith("tick")] == [f"tick {n}" for n in range(60)]


@pytest.mark.usefixtures("executor_alone")
def test_runs_of_an_executor_that_ends_are_tried_again(project: Composed, environment: str, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(seconds=8))
    run = run_of(project.cloche("submit", str(script), "--env", "quickstart"))
    project.wait(lambda: "tick" in project.cloche("logs", run, ok=False), "the run to begin")
    project.container("executor").restart(timeout=15)
    project.wait(lambda: "Completed" in project.cloche("run", "show", run, ok=False), "the run to end")


async def test_a_producer_outside_writes_commands_and_no_facts(project: Composed, tmp_path: Path) -> None:
    for name in ("librdkafka.properties", "ca.pem"):
        (tmp_path / name).write_text(await asyncio.to_thread(project.compose, "run", "--rm", "client", name))
    text = (tmp_path / "librdkafka.properties").read_text()
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    producer = AIOKafkaProducer(
        bootstrap_servers=said["bootstrap.servers"],
        security_protocol=said["security.protocol"],
        sasl_mechanism=said["sasl.mechanisms"],
        sasl_plain_username=said["sasl.username"],
        sasl_plain_password=said["sasl.password"],
        ssl_context=ssl.create_default_context(cafile=tmp_path / said["ssl.ca.location"]),
    )
    await producer.start()
    try:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait("cloche.runs", b"{}")
        sent = await producer.send_and_wait("cloche.commands.default", b"{}", headers=[])
        assert sent.topic == "cloche.commands.default"
    finally:
        await producer.stop()
