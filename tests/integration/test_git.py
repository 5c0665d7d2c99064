"""Commits through the real git, from repositories in folders; addresses as they come over the network."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from cloche_shared.adapters.git_fetch import GitLimits, GitProgram, git_program
from cloche_shared.errors import ClocheError, Failed, Invalid, TooLarge
from cloche_shared.ports.git import GitTree


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    (folder / "train.py").write_text("print('hi')\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "data").mkdir()
    (folder / "data" / "ü.bin").write_bytes(bytes(range(256)))
    (folder / ".gitattributes").write_text("*.py filter=evil export-ignore\n")
    return folder


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "one")
    return git(folder, "rev-parse", "HEAD")


async def fetched(folder: Path, name: str, limits: GitLimits | None = None) -> GitTree:
    found = await git_program()
    assert found is not None
    return await GitProgram(found.path, limits, protocol="file").fetch(folder.as_uri(), name)


async def refused(folder: Path, name: str, limits: GitLimits | None = None) -> ClocheError:
    with pytest.raises(ClocheError) as caught:
        await fetched(folder, name, limits)
    return caught.value


async def test_a_commits_files_come_as_they_are(repository: Path) -> None:
    tree = await fetched(repository, commit(repository))
    assert sorted(tree.files) == [".gitattributes", "data/ü.bin", "run.sh", "train.py"]
    assert tree.files["data/ü.bin"] == bytes(range(256))
    assert tree.executable == {"run.sh"}


async def test_an_older_commit_is_what_was_named(repository: Path) -> None:
    first = commit(repository)
    (repository / "train.py").write_text("changed")
    commit(repository)
    assert (await fetched(repository, first)).files["train.py"] == b"print('hi')\n"


async def test_links_are_refused(repository: Path) -> None:
    (repository / "link").symlink_to("/etc/passwd")
    assert (await refused(repository, commit(repository))).code == "unsafe_path"


async def test_a_commit_that_is_not_there_is_refused(repository: Path) -> None:
    commit(repository)
    assert isinstance(await refused(repository, "0" * 40), Failed)


@pytest.mark.parametrize("limits", [GitLimits(files=1), GitLimits(file_bytes=10)])
async def test_a_tree_over_the_limits_is_refused(repository: Path, limits: GitLimits) -> None:
    assert isinstance(await refused(repository, commit(repository), limits), TooLarge)


async def test_nothing_is_left_behind(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    await fetched(repository, commit(repository))
    await refused(repository, "0" * 40)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.git",
        "https://user:secret@example.org/a.git",
        "https://127.0.0.1/a.git",
        "https://localhost/a.git",
        "https://[::1]/a.git",
        "https://[::ffff:10.0.0.1]/a.git",
        "https://169.254.169.254/a.git",
        "https://0x7f.1/a.git",
        "https://2130706433/a.git",
        "https://example.org:bad/a.git",
        "ext::sh -c touch% /tmp/x",
        "--upload-pack=/bin/sh",
        "https://",
    ],
)
async def test_addresses_that_lead_elsewhere_are_refused_before_git_is_called(url: str) -> None:
    program = GitProgram("/nonexistent/git")
    with pytest.raises(Invalid) as caught:
        await program.fetch(url, "0" * 40)
    assert caught.value.code == "url_not_allowed"
    assert "secret" not in str(caught.value)


async def test_another_protocol_than_https_is_not_spoken(repository: Path) -> None:
    name = commit(repository)
    found = await git_program()
    assert found is not None
    with pytest.raises(Failed):
        await GitProgram(found.path, protocol="git").fetch(repository.as_uri(), name)


async def test_what_takes_too_long_is_ended(repository: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await GitProgram(str(slow), protocol="file").fetch(repository.as_uri(), "0" * 40)


async def test_the_wait_for_others_counts_as_well(tmp_path: Path) -> None:
    stuck = tmp_path / "git"
    stuck.write_text("#!/bin/sh\nexec sleep 3600\n")
    stuck.chmod(0o755)
    program = GitProgram(str(stuck), GitLimits(seconds=1.0), protocol="file")
    async with asyncio.timeout(15):  # one pair after another would take 40 s
        ends = await asyncio.gather(*(program.fetch("", "0" * 40) for _ in range(80)), return_exceptions=True)
    assert {type(end) for end in ends} == {Failed}
