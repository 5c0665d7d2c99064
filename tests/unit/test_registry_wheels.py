"""Private wheels at the registry: looked into, named, replaced, referred to, and nobody else's."""

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2
import pytest

from cloche_shared.adapters.memory_resolver import Package, wheel_bytes
from tests.unit.registry_world import World, started

OWN = wheel_bytes(Package("own-lib", "1.0", ("alpha>=1",), {"own_lib.py": "VERSION = 1\n"}))
NEWER = wheel_bytes(Package("own-lib", "1.0", (), {"own_lib.py": "VERSION = 2\n"}))
NAME = "own_lib-1.0-py3-none-any.whl"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with started() as made:
        yield made


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def upload(world: World, data: bytes, filename: str = NAME) -> httpx2.Response:
    digest = digest_of(data)
    sent = await world.client.put(f"/files/wheels/{digest}", content=data)
    assert sent.status_code in {200, 201}
    return await world.post("/wheels", {"digest": digest, "filename": filename})


def changed(data: bytes, **members: bytes | None) -> bytes:
    """Return a wheel with other members; `info__X` means X of its metadata; None: left out."""
    known = {
        name.replace("info__", "own_lib-1.0.dist-info/").replace("__", "."): text for name, text in members.items()
    }
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        whole: Mapping[str, bytes | None] = {name: source.read(name) for name in source.namelist()} | known
        for name, text in whole.items():
            if text is not None:
                archive.writestr(name, text)
    return target.getvalue()


async def test_a_wheel_says_of_itself_what_it_is(world: World) -> None:
    answer = await upload(world, OWN, "wrong-9.9-py2-none-any.whl")
    shown = answer.json()
    assert answer.status_code == 201
    assert (shown["filename"], shown["name"], shown["version"]) == (NAME, "own-lib", "1.0")
    assert (shown["requires"], shown["sent_as"]) == (["alpha>=1"], "wrong-9.9-py2-none-any.whl")
    assert (shown["digest"], shown["size"]) == (digest_of(OWN), len(OWN))
    assert (await world.client.get(shown["path"].removeprefix("/api/v1"))).content == OWN


async def test_a_wheel_with_a_local_version_is_found_by_its_name(world: World) -> None:
    local = wheel_bytes(Package("own-lib", "1.0+cu121"))
    answer = await upload(world, local)
    name = "own_lib-1.0+cu121-py3-none-any.whl"
    assert (answer.json()["filename"], answer.headers["cloche-position"]) == (
        name,
        "here:wheel/default/own_lib-1.0:cu121-py3-none-any.whl@1",
    )
    assert (await world.client.get(f"/wheels/{name}")).json()["digest"] == digest_of(local)


async def test_the_same_upload_again_changes_nothing(world: World) -> None:
    first, again = [await upload(world, OWN) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()


async def test_a_newer_upload_replaces_the_name_and_the_older_content_stays(world: World) -> None:
    await upload(world, OWN)
    shown = (await upload(world, NEWER)).json()
    assert (shown["digest"], shown["digests"]) == (digest_of(NEWER), [digest_of(OWN), digest_of(NEWER)])
    old = {"digest": digest_of(OWN), "filename": NAME}
    made = await world.register("uses-old", {"python": {"wheels": [old]}})
    assert made["definition"]["python"]["wheels"] == [old]
    assert (await world.client.get(f"/wheels/{digest_of(OWN)}/{NAME}")).content == OWN


async def test_wheels_are_listed_by_name_with_their_newest_content(world: World) -> None:
    answers = [await upload(world, data) for data in (wheel_bytes(Package("zzz", "1.0")), OWN, NEWER)]
    places = [answer.headers["cloche-position"].partition(":")[2] for answer in answers]
    position = f"here:{','.join(places)}"
    items = (await world.client.get("/wheels", headers={"cloche-position": position})).json()["items"]
    assert [(one["filename"], one["digest"]) for one in items][:1] == [(NAME, digest_of(NEWER))]
    assert len(items) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        changed(OWN, own_lib__py=b"VERSION = 6\n"),
        changed(OWN, more__py=b""),
        changed(OWN, info__RECORD=None),
        changed(OWN, info__WHEEL=None),
        changed(OWN, info__METADATA=None),
        changed(OWN, info__METADATA=b"Name: other\nVersion: 1.0\n"),
        changed(OWN, info__METADATA=b"\xff\xfe"),
        changed(OWN, **{"../out.py": b""}),
        changed(OWN, **{"other-1.0.dist-info/METADATA": b""}),
        changed(OWN, info__RECORD=b"own_lib.py," + b"x" * 200_000 + b",1\n"),
        OWN[: len(OWN) // 2],
    ],
    ids=[
        "text",
        "altered",
        "unrecorded",
        "record",
        "wheel",
        "metadata",
        "name",
        "bytes",
        "outside",
        "two",
        "long",
        "half",
    ],
)
async def test_what_is_no_right_wheel_is_refused_and_nothing_is_kept_of_its_name(world: World, data: bytes) -> None:
    answer = await upload(world, data)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_wheel")
    assert (await world.client.get(f"/wheels/{NAME}")).status_code == 404


async def test_bytes_that_were_not_sent_are_not_found(world: World) -> None:
    answer = await world.post("/wheels", {"digest": digest_of(OWN), "filename": NAME})
    assert (answer.status_code, answer.json()["code"]) == (404, "blob_not_found")


@pytest.mark.parametrize("way", ["register", "check", "run"])
async def test_a_reference_to_a_wheel_that_is_not_here_is_refused(world: World, way: str) -> None:
    await upload(world, OWN)
    definition = {"python": {"wheels": [{"digest": digest_of(NEWER), "filename": NAME}]}}
    if way == "run":
        answer = await world.ask({"environment": {"name": "own", "definition": definition}})
        problem: Any = answer.data["problem"]
        assert problem["code"] == "wheel_not_found"
        return
    path = "/environments/check" if way == "check" else "/environments"
    found = (await world.post(path, {"name": "own", "definition": definition})).json()
    faults = found["problems"] if way == "check" else found["errors"]
    assert ("/definition/python/wheels/0", "wheel_not_found") in [(one["pointer"], one["code"]) for one in faults]


async def test_a_wheel_by_its_address_is_a_reference_in_the_version(world: World) -> None:
    path = (await upload(world, OWN)).json()["path"]
    made = await world.register("own", {"python": {"pip": [f"https://cloche.test{path}", "alpha"]}})
    section = made["definition"]["python"]
    assert (section["pip"], section["wheels"]) == (["alpha"], [{"digest": digest_of(OWN), "filename": NAME}])


async def test_another_project_has_none_of_it(world: World) -> None:
    await upload(world, OWN)
    assert (await world.post("/projects", {"name": "blue"})).status_code == 201
    elsewhere = {"Cloche-Project": "blue"}
    paths = (f"/wheels/{NAME}", f"/wheels/{digest_of(OWN)}/{NAME}", f"/files/wheels/{digest_of(OWN)}")
    answers = [await world.client.get(path, headers=elsewhere) for path in paths]
    assert {answer.status_code for answer in answers} == {404}
    definition = {"python": {"wheels": [{"digest": digest_of(OWN), "filename": NAME}]}}
    refused = await world.post("/environments", {"name": "own", "definition": definition}, **elsewhere)
    assert (refused.status_code, refused.json()["code"]) == (404, "wheel_not_found")
