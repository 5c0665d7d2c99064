"""compose.yaml names the images of the one catalogue, and leaves no container without limits."""

import re
from pathlib import Path

import pytest

from tests.environments.catalogue import ROLES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text()
OWN = ("registry", "builder", "runner", "deployer", "executor")


def test_images_of_others_are_those_of_the_catalogue() -> None:
    named = dict(re.findall(r"\$\{(CLOCHE_IMAGE_[A-Z0-9_]+):-([^}]+)\}", TEXT))
    assert set(named) == {ROLES[name].variable for name in ("kafka", "mongo", "s3", "gateway")}
    assert named == {role.variable: role.public for role in ROLES.values() if role.variable in named}


def test_our_images_are_made_on_the_catalogues_base() -> None:
    script = (ROOT / "compose" / "images.py").read_text()
    assert f'BASE = "{ROLES["python-base"].public}"' in script
    assert f'"{ROLES["python-base"].variable}"' in script


def test_every_image_is_named_by_a_variable() -> None:
    images = re.findall(r"^\s*image: (.*)$", TEXT, re.MULTILINE)
    assert len(images) >= len(OWN) + 4
    assert all(name.startswith("${CLOCHE_") for name in images)


@pytest.mark.parametrize("name", OWN)
def test_each_image_of_ours_has_a_user_a_health_check_and_nothing_but_the_common_one(name: str) -> None:
    folder = ROOT / ("compose/executor" if name == "executor" else f"services/{name}")
    lines = (folder / "Dockerfile").read_text().splitlines()
    words = [line.split()[0] for line in lines if line and not line.startswith((" ", "#"))]
    assert "RUN" not in words
    assert "COPY" not in words
    assert words.count("HEALTHCHECK") == 1
    assert f"USER {'10002' if name == 'executor' else '10001'}:10000" in lines


def test_every_published_port_is_on_loopback() -> None:
    ports = re.findall(r"^\s*ports: \[(.*)\]$", TEXT, re.MULTILINE)
    assert ports
    assert all(one.startswith('"127.0.0.1:') for one in ports)
    assert TEXT.count("ports:") == len(ports)


def test_no_secret_is_in_the_file() -> None:
    assert not re.search(r"(?i)(password|secret_key|pepper|token): *[\"']?[A-Za-z0-9]{8,}", TEXT)
    assert "privileged" not in TEXT
    assert "docker.sock" not in TEXT
