"""Snapshots, manifests, blobs and models that cannot be taken; paths that would leave their tree."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloche import Client, ClocheError
from tests.e2e.problems import problem, refused, said
from tests.e2e.steps import Names, Scripts, completed, done
from tests.e2e.topology import SMALL, Topology

NOWHERE = "sha256:" + "0" * 64
BYTES = {"content-type": "application/octet-stream"}


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def put(rest: httpx2.Client, area: str, content: bytes) -> str:
    digest = digest_of(content)
    answer = rest.put(f"/api/v1/files/{area}/{digest}", content=content, headers=BYTES)
    assert answer.is_success, answer.text
    return digest


def manifest(*entries: dict[str, Any]) -> bytes:
    """Return a manifest as the server wants it, with any paths."""
    return json.dumps({"files": list(entries)}, separators=(",", ":"), sort_keys=True).encode()


def entry(path: str, content: bytes = b"print(1)\n", **changes: Any) -> dict[str, Any]:
    return {"path": path, "digest": digest_of(content), "size": len(content), "executable": False, **changes}


PATHS = [
    *("../evil.py", "a/../../evil.py", "/etc/passwd", "a//b", "./a", "a/.", "..", "C:/evil.py", "a\\..\\b", "a\x00b"),
    *("a\nb", "a\x1b[31m", "/".join(["d"] * 40), "x" * 300),
]


@pytest.mark.parametrize("area", ["runs", "models", "services"])
def test_a_manifest_by_hand_cannot_name_what_lies_outside(topology: Topology, unique: Names, area: str) -> None:
    with topology.rest() as rest:
        put(rest, area, b"print(1)\n")
        for path in PATHS:
            answer = use(rest, area, unique("bad"), put(rest, area, manifest(entry(path))))
            assert answer.status_code == 422, (path, answer.text)
            assert answer.json()["code"] in {"unsafe_path", "invalid_manifest", "invalid_field"}, answer.text


@pytest.mark.parametrize("area", ["runs", "models", "services"])
def test_a_manifest_that_is_none(topology: Topology, unique: Names, area: str) -> None:
    with topology.rest() as rest:
        put(rest, area, b"print(1)\n")
        one = entry("a.py")
        for content in (
            b"no json",
            b"[]",
            b'{"files": 1}',
            b'{"files": [{"path": "a.py"}]}',
            manifest(one, one),
            manifest(entry("A.py"), entry("a.py")),
            manifest(entry("a"), entry("a/b")),
            manifest(entry("a.py", size=-1)),
            manifest(entry("a.py", digest="md5:00")),
            manifest(entry("a.py", mode=0o4755)),
            manifest(entry("a.py", link="/etc/passwd")),
        ):
            answer = use(rest, area, unique("bad"), put(rest, area, content))
            assert answer.status_code == 422, (content, answer.text)
            assert answer.json()["code"] in {"unsafe_path", "invalid_manifest", "unknown_field"}, answer.text


@pytest.mark.parametrize("area", ["runs", "models", "services"])
@pytest.mark.parametrize("size", [0, 8, 10, 2**52])
def test_a_size_that_is_not_that_of_the_file_is_not_believed(
    topology: Topology, unique: Names, area: str, size: int
) -> None:
    with topology.rest() as rest:
        put(rest, area, b"print(1)\n")
        answer = use(rest, area, unique("bad"), put(rest, area, manifest(entry("a.py", size=size))))
    if size < 2**40:
        problem(answer, 422, "size_mismatch", pointer="/files/0/size", names="9 bytes")
    else:
        assert answer.status_code in {413, 422}, answer.text


def use(rest: httpx2.Client, area: str, name: str, digest: str) -> httpx2.Response:
    """Send the command that names a manifest."""
    bodies: dict[str, dict[str, Any]] = {
        "runs": {"script": "a.py", "snapshot": digest},
        "models": {"name": name, "manifest": digest},
        "services": {"name": name, "entry_script": "a.py", "snapshot": digest},
    }
    return rest.post(f"/api/v1/{area}", json=bodies[area])


def test_a_snapshot_that_was_not_sent_lists_what_is_missing(topology: Topology) -> None:
    with topology.rest() as rest:
        problem(use(rest, "runs", "", NOWHERE), 422, "snapshot_incomplete")
        digest = put(rest, "runs", manifest(entry("a.py", b"never sent " + topology.token.encode())))
        problem(use(rest, "runs", "", digest), 422, "snapshot_incomplete")


def test_a_blob_of_another_area_is_missing_here(topology: Topology) -> None:
    with topology.rest() as rest:
        digest = put(rest, "runs", b"only for runs " + topology.token.encode())
        asked = rest.post("/api/v1/files/models/missing", json={"digests": [digest]}).json()
        assert asked == {"missing": [digest]}
        problem(rest.get(f"/api/v1/files/models/{digest}"), 404, "blob_not_found")


def test_bytes_that_are_not_those_that_were_announced(topology: Topology) -> None:
    with topology.rest() as rest:
        answer = rest.put(f"/api/v1/files/runs/{NOWHERE}", content=b"other", headers=BYTES)
        told = problem(answer, 422, "digest_mismatch", names=digest_of(b"other"))
        assert told["expected"] == NOWHERE
        assert rest.post("/api/v1/files/runs/missing", json={"digests": [NOWHERE]}).json()["missing"] == [NOWHERE]


def test_a_digest_is_a_digest(topology: Topology) -> None:
    with topology.rest() as rest:
        for digest in ("sha256:" + "G" * 64, "sha256:" + "0" * 63, "md5:" + "0" * 32, "0" * 64, "sha256:" + "A" * 64):
            answer = rest.put(f"/api/v1/files/runs/{digest}", content=b"x", headers=BYTES)
            problem(answer, 422, "invalid_field", pointer="#path/digest")


def test_a_blob_is_never_shown_as_a_page(topology: Topology) -> None:
    with topology.rest() as rest:
        digest = put(rest, "runs", b"<html><script>alert(1)</script></html>")
        answer = rest.get(f"/api/v1/files/runs/{digest}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_folder_over_the_limit_is_not_sent(topology: Topology, client: Client, script: Scripts) -> None:
    train = script("print(1)")
    for number in range(10_001):
        (train.parent / f"{number}.txt").touch()
    with pytest.raises(ClocheError) as caught:
        client.runs.submit(train)
    refused(caught.value, "snapshot_too_large", names=".clocheignore")
    said(topology.cli("submit", train, code=2), "snapshot_too_large", names="10,000")


def test_a_snapshot_over_the_limit_is_refused_by_the_server_too(topology: Topology, unique: Names) -> None:
    with topology.rest() as rest:
        put(rest, "runs", b"print(1)\n")
        many = manifest(*(entry(f"{number:05}.py") for number in range(10_001)))
        answer = use(rest, "runs", unique("bad"), put(rest, "runs", many))
        problem(answer, 413, "snapshot_too_large", names="10")


def test_links_are_sent_as_files_of_the_folder_or_not_at_all_and_told(topology: Topology, script: Scripts) -> None:
    train = script("import os\nprint(sorted(os.listdir()), os.path.islink('linked.txt'))")
    (train.parent / "linked.txt").symlink_to(train)
    for name, target in (("folder", "/etc"), ("outside", "/etc/passwd"), ("nothing", "nowhere")):
        (train.parent / name).symlink_to(target)
    os.mkfifo(train.parent / "pipe")
    ended = topology.cli("submit", train, "--cpus", "0.1", "--memory", "64MiB", "--follow")
    assert "['linked.txt', 'train.py'] False" in ended.out
    for name in ("folder", "outside", "nothing", "pipe"):
        assert f"{name} is not sent: it is " in ended.err, ended.err


def test_files_of_a_snapshot_by_hand_do_not_become_the_runs_outputs(topology: Topology, client: Client) -> None:
    code, old = b"import os\nos.makedirs('outputs')\nopen('outputs/new', 'w').write('new')\n", b"old"
    with topology.rest() as rest:
        for content in (code, old):
            put(rest, "runs", content)
        tree = manifest(entry("logs/old", old), entry("outputs/old", old), entry("train.py", code))
        body = {"script": "train.py", "snapshot": put(rest, "runs", tree), "resources": SMALL}
        run = rest.post("/api/v1/runs", json=body).json()
    ended = done(client, run["id"])
    assert ended.status == "Completed", ended.problem
    assert [one["path"] for one in client.runs.outputs(ended.id)] == ["outputs/new"]


def test_a_file_name_that_cannot_be_sent_is_named(client: Client, script: Scripts) -> None:
    train = script("print(1)")
    (train.parent / "bad\nname.py").touch()
    with pytest.raises(ClocheError) as caught:
        client.runs.submit(train)
    refused(caught.value, "unsafe_path", names="bad\\nname.py")


# --- models


def test_a_path_that_a_run_does_not_have_lists_those_that_it_has(
    topology: Topology, client: Client, script: Scripts, unique: Names
) -> None:
    train = script("import os\nos.makedirs('outputs')\nopen('outputs/model.pkl', 'w').write('m')")
    run = completed(client, train)
    with pytest.raises(ClocheError) as caught:
        client.models.register(unique("model"), path="outputs/modle.pkl", from_run=run.id)
    refused(caught.value, "model_path_not_found", names="outputs/model.pkl")
    ended = topology.cli("model", "register", unique("m"), "--from-run", run.id, "--path", "outputs/none", code=3)
    said(ended, "model_path_not_found", names="outputs/model.pkl")
    for path in ("../token", "/etc/passwd", "outputs/../../token"):
        with pytest.raises(ClocheError) as caught:
            client.models.register(unique("model"), path=path, from_run=run.id)
        refused(caught.value, "unsafe_path")


def test_a_model_of_a_run_that_is_nowhere_or_left_nothing(client: Client, script: Scripts, unique: Names) -> None:
    with pytest.raises(ClocheError) as caught:
        client.models.register(unique("model"), path="outputs/x", from_run="00000000-0000-0000-0000-000000000000")
    refused(caught.value, "run_not_found")
    run = completed(client, script("print('nothing')"))
    with pytest.raises(ClocheError) as caught:
        client.models.register(unique("model"), path="outputs/x", from_run=run.id)
    assert caught.value.code in {"model_path_not_found", "no_outputs"}


def test_a_model_comes_from_exactly_one_place(topology: Topology, unique: Names) -> None:
    name, run = unique("model"), "00000000-0000-0000-0000-000000000000"
    with topology.rest() as rest:
        for body in ({}, {"manifest": NOWHERE, "from_run": {"run_id": run, "path": "x"}}):
            problem(rest.post("/api/v1/models", json={"name": name, **body}), 422, "model_source")
        answer = rest.post("/api/v1/models", json={"name": name, "from_run": {"run_id": "../x", "path": "x"}})
        problem(answer, 422, "invalid_field", pointer="/from_run/run_id")


def test_a_model_that_is_not_there(topology: Topology, client: Client, tmp_path: Path, unique: Names) -> None:
    name = unique("model")
    said(topology.cli("model", "show", name, code=3), "model_not_found", names=name)
    with pytest.raises(ClocheError) as caught:
        client.models.register(name, path=tmp_path / "none.pkl")
    refused(caught.value, "source_not_found", names="none.pkl")
    (tmp_path / "model.pkl").write_bytes(b"m")
    client.models.register(name, path=tmp_path / "model.pkl")
    client.models.delete(name)
    with pytest.raises(ClocheError) as caught:
        client.models.delete(name)
    refused(caught.value, "model_deleted", names=name)
