"""The catalogue of images: what overrides what, and what makes a local image another one."""

import shutil
from pathlib import Path

import pytest

from tests.environments import catalogue
from tests.environments.catalogue import COMPOSE, ROLES, Role


def test_each_role_has_a_public_image_with_a_version() -> None:
    assert all(":" in role.public and not role.public.endswith(":latest") for role in ROLES.values())


def test_each_role_has_a_variable_of_its_own() -> None:
    assert ROLES["s3-second"].variable == "CLOCHE_IMAGE_S3_SECOND"
    assert len({role.variable for role in ROLES.values()}) == len(ROLES)


def test_the_variable_overrides_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCHE_IMAGE_KAFKA", "mirror.example/kafka:1")
    assert ROLES["kafka"].override == "mirror.example/kafka:1"


@pytest.mark.parametrize("role", [*ROLES.values(), COMPOSE], ids=lambda role: role.name)
def test_each_recipe_pins_what_it_downloads(role: Role) -> None:
    names = {path.name for path in role.folder.iterdir()}
    assert not role.recipe.program or {"go.mod", "go.sum"} <= names
    assert not role.recipe.jars or {"pom.xml", "jars.sha256"} <= names
    assert role is COMPOSE or "Dockerfile" in names


def test_a_changed_file_makes_another_image_here_and_above(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = {name: role.local for name, role in ROLES.items()}
    shutil.copytree(catalogue.RECIPES, tmp_path / "recipes")
    monkeypatch.setattr(catalogue, "RECIPES", tmp_path / "recipes")
    with (tmp_path / "recipes" / "python-base" / "Dockerfile").open("a") as file:
        file.write("ENV A=1\n")
    changed = {name for name, role in ROLES.items() if role.local != before[name]}
    assert changed == {"python-base", "s3", "s3-second"}
