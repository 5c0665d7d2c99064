"""Environments that cannot be had: what is wrong is named when it is registered, or when it is built."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cloche import Client, ClocheError
from cloche_shared.adapters.memory_resolver import Package
from tests.e2e.packages import ThreadedIndex
from tests.e2e.problems import failed, problem, refused, said
from tests.e2e.steps import Names, Scripts, submit
from tests.e2e.topology import PATIENCE, SMALL, Topology, eventually

CORPUS = Path(__file__).parent.parent / "unit" / "corpus"
LINES = json.loads((CORPUS / "requirements.json").read_text())
FORBIDDEN = [line for line, code in LINES if code == "requirement_option" and "\x00" not in line]
WHEEL = "pkg-1.0-py3-none-any.whl"


def test_options_that_would_reach_beyond_packages_are_refused_with_their_line(
    topology: Topology, unique: Names
) -> None:
    name = unique("env")
    with topology.rest() as rest:
        for line in FORBIDDEN:
            body = {"name": name, "requirements": f"numpy\n# a comment\n{line}\n"}
            answer = rest.post("/api/v1/environments", json=body)
            problem(answer, 422, "requirement_option", pointer="/requirements/3", names="Line 3")
        problem(rest.get(f"/api/v1/environments/{name}"), 404, "environment_not_found")


def test_every_bad_line_is_pointed_at_once(client: Client, unique: Names) -> None:
    with pytest.raises(ClocheError) as caught:
        client.environments.register(unique("env"), requirements="ok\n-e .\nnot a thing\n--find-links x\n")
    error = refused(caught.value, "requirement_option", names="Line 2")
    assert [one.pointer for one in error.violations] == ["/requirements/2", "/requirements/3", "/requirements/4"]


def test_the_command_line_names_the_line_that_cannot_be_parsed(
    topology: Topology, tmp_path: Path, unique: Names
) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\nscikit learn==1.0\n")
    ended = topology.cli("env", "register", unique("env"), "-r", tmp_path / "requirements.txt", code=2)
    assert "/requirements/2" in said(ended, "invalid_requirement", names="scikit learn==1.0")


def test_a_requirements_file_that_is_not_there(topology: Topology, tmp_path: Path, unique: Names) -> None:
    ended = topology.cli("env", "register", unique("env"), "-r", tmp_path / "none.txt", code=3)
    said(ended, "file_not_found", names="none.txt")


def test_a_requirements_file_reaches_no_file_outside_its_folder(
    topology: Topology, client: Client, tmp_path: Path, unique: Names
) -> None:
    (tmp_path / "secret.txt").write_text("hunter2\n")
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "again.txt"
    for line in ("-r ../secret.txt", "-r /etc/passwd", "-c ../secret.txt", "-r again.txt"):
        file.write_text(line + "\n")
        with pytest.raises(ClocheError) as caught:
            client.environments.register(unique("env"), requirements_file=file)
        refused(caught.value, "requirement_option", names="cannot be included")
    ended = topology.cli("env", "register", unique("env"), "-r", file, code=2)
    assert "hunter2" not in said(ended, "requirement_option")


HOSTS = [
    *("127.0.0.1", "localhost", "localhost.", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "192.168.1.1", "127.1"),
    *("169.254.169.254", "100.64.0.1", "[fd00::1]", "2130706433", "0x7f.1", "0177.0.0.1", "%31%32%37.0.0.1"),
    *("metadata.internal", "printer.local", "intranet", "user:password@example.com", "224.0.0.1"),
]


def test_a_direct_address_of_a_wheel_names_a_public_host(topology: Topology, unique: Names) -> None:
    with topology.rest() as rest:
        for host in HOSTS:
            body = {"name": unique("env"), "definition": {"python": {"pip": [f"pkg @ https://{host}/{WHEEL}"]}}}
            answer = rest.post("/api/v1/environments", json=body)
            told = problem(answer, 422, "url_not_allowed", pointer="/definition/python/pip/0")
            assert "password" not in told["detail"]


def test_limits_of_a_definition_are_refused_and_never_cut_off(topology: Topology, unique: Names) -> None:
    name = unique("env")
    with topology.rest() as rest:
        for requirements in (
            "#\n" * 20_001 + "numpy\n",
            "".join(f"package{number}\n" for number in range(2001)),
            "numpy; " + "(" * 900 + "python_version > '3'" + ")" * 900,
            "numpy; " + " and ".join(["python_version > '3'"] * 300),
            "".join(f"--extra-index-url https://example.com/{number}\n" for number in range(17)),
            "--no-binary " + ",".join(f"package{number}" for number in range(257)),
            "--index-url https://example.com/" + "a" * 3000,
            f"pkg @ https://[::1/{WHEEL}",
        ):
            answer = rest.post("/api/v1/environments", json={"name": name, "requirements": requirements})
            told = problem(answer, 422, answer.json()["code"])
            assert told["errors"][0]["pointer"].startswith("/requirements")
        for section in (
            {"pip": ["x"] * 2001},
            {"pip": ["numpy; " + "(" * 900 + "python_version > '3'" + ")" * 900]},
            {"pip_options": {"index_url": "http://[::1"}},
            {"pip_options": {"no_binary": ["--find-links"]}},
            {"pip_options": {"extra_index_urls": ["https://a.example https://b.example"]}},
        ):
            answer = rest.post("/api/v1/environments", json={"name": name, "definition": {"python": section}})
            told = problem(answer, 422, answer.json()["code"])
            assert told["errors"][0]["pointer"].startswith("/definition/python/pip")
        assert rest.get(f"/api/v1/environments/{name}").status_code == 404


@pytest.mark.parametrize(
    ("variables", "code", "pointer"),
    [
        ({"PATH": "/evil"}, "reserved_variable", "PATH"),
        ({"path": "/evil"}, "reserved_variable", "path"),
        ({"LD_PRELOAD": "x.so"}, "reserved_variable", "LD_PRELOAD"),
        ({"PYTHONSTARTUP": "x.py"}, "reserved_variable", "PYTHONSTARTUP"),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "reserved_variable", "NVIDIA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "reserved_variable", "CUDA_VISIBLE_DEVICES"),
        ({"CLOCHE_TOKEN": "x"}, "reserved_variable", "CLOCHE_TOKEN"),
        ({"DOCKER_HOST": "x"}, "reserved_variable", "DOCKER_HOST"),
        ({"a-b": "x"}, "invalid_variable", "a-b"),
        ({"1A": "x"}, "invalid_variable", "1A"),
        ({"A=B": "x"}, "invalid_variable", "A=B"),
        ({"\u00c4": "x"}, "invalid_variable", "\u00c4"),
        ({"A": "x\x00y"}, "invalid_variable", "A"),
        ({"A" * 129: "x"}, "invalid_variable", "A" * 129),
        ({"A": "x" * 33_000}, "invalid_variable", "A"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_variables_that_cannot_be_passed_on(
    topology: Topology, unique: Names, variables: dict[str, str], code: str, pointer: str
) -> None:
    with topology.rest() as rest:
        body = {"name": unique("env"), "definition": {"variables": variables}}
        answer = rest.post("/api/v1/environments", json=body)
        problem(answer, 422, code, pointer=f"/definition/variables/{pointer}")
        snapshot = {"script": "a.py", "snapshot": "sha256:" + "0" * 64, "variables": variables}
        problem(rest.post("/api/v1/runs", json=snapshot), 422, code, pointer=f"/variables/{pointer}")


# --- builds


def built(client: Client, index: ThreadedIndex, *lines: str, **python: str) -> Any:
    """Build an environment of an index and return the build when it has ended."""
    section = {"pip": list(lines), "pip_options": {"index_url": index.url}, **python}
    build = client.builds.start({"name": f"env-{id(lines)}", "definition": {"python": section}})
    return client.builds.wait(build.id, timeout=PATIENCE)


def test_a_package_that_does_not_exist_is_named(client: Client, index: ThreadedIndex) -> None:
    build = built(client, index, "sckit-lern")
    told = failed(build.problem, "package_not_found", names="sckit-lern")
    assert told["extra"]["package"] == "sckit-lern"
    assert "sckit-lern" in "".join(client.builds.log(build.id))


def test_a_version_that_does_not_exist_is_named(client: Client, index: ThreadedIndex) -> None:
    index.add("alpha", "1.0")
    failed(built(client, index, "alpha==9.9").problem, "package_not_found", names="alpha==9.9")


def test_a_conflict_names_both_sides(client: Client, index: ThreadedIndex) -> None:
    index.add("gamma", "1.0")
    index.add("gamma", "2.0")
    index.packages += [Package("old", "1.0", ("gamma<2",)), Package("new", "1.0", ("gamma>=2",))]
    told = failed(built(client, index, "old", "new").problem, "solver_conflict", names="old, new")
    assert told["extra"]["requirements"] == ["old", "new"]
    twice = failed(built(client, index, "gamma<2", "gamma>=2").problem, "solver_conflict")
    assert twice["extra"]["requirements"] == ["gamma<2", "gamma>=2"]


def test_a_package_that_does_not_compile_shows_what_the_compiler_said_last(
    topology: Topology, client: Client, index: ThreadedIndex, tmp_path: Path, unique: Names
) -> None:
    requirements = index.add("broken", only_source=True, compiles=False)
    (tmp_path / "requirements.txt").write_text(requirements)
    name = unique("env")
    topology.cli("env", "register", name, "-r", tmp_path / "requirements.txt")
    ended = topology.cli("env", "build", name, code=1)
    said(ended, "compile_error", names="fatal error: nowhere.h")
    build: Any = eventually(lambda: [one for one in client.builds.list() if name in str(one)], "the build is listed")[0]
    told = failed(build.problem, "compile_error", names="fatal error: nowhere.h")
    assert told["extra"]["package"] == "broken"
    log = "".join(client.builds.log(build.id))
    assert "fatal error: nowhere.h" in log
    assert not re.search(r"[\s`'](/[\w.-]+){3,}", log), "the log names folders of the server"


def test_a_python_that_is_not_here_lists_those_that_are(client: Client, index: ThreadedIndex) -> None:
    told = failed(built(client, index, version="3.99").problem, "python_not_available", names="3.99")
    assert told["extra"]["available"]
    assert all(version in told["message"] for version in told["extra"]["available"])


def test_an_index_that_does_not_answer_is_named(client: Client, unique: Names) -> None:
    section = {"pip": ["alpha"], "pip_options": {"index_url": "http://127.0.0.1:9/simple"}}
    build = client.builds.start({"name": unique("env"), "definition": {"python": section}})
    ended: Any = client.builds.wait(build.id, timeout=PATIENCE)
    failed(ended.problem, "unreachable", names="127.0.0.1:9")


def test_an_index_that_asks_who_we_are(client: Client, index: ThreadedIndex, unique: Names) -> None:
    index.add("alpha")
    index.user = "me:right"
    section = {"pip": ["alpha"], "pip_options": {"index_url": index.url}}
    build = client.builds.start({"name": unique("env"), "definition": {"python": section}})
    ended: Any = client.builds.wait(build.id, timeout=PATIENCE)
    failed(ended.problem, "index_auth")


def test_bytes_that_are_not_those_of_the_index_are_not_taken(client: Client, index: ThreadedIndex) -> None:
    index.add("alpha")
    index.corrupt.add("alpha-1.0-py3-none-any.whl")
    told = built(client, index, "alpha").problem
    assert told.code in {"hash_mismatch", "invalid_wheel"}
    assert "alpha" in told.message


def test_a_run_of_an_environment_that_cannot_be_built_fails_with_the_reason_of_the_build(
    topology: Topology, client: Client, index: ThreadedIndex, script: Scripts, tmp_path: Path, unique: Names
) -> None:
    (tmp_path / "requirements.txt").write_text(index.requirements("sckit-lern"))
    name = unique("env")
    topology.cli("env", "register", name, "-r", tmp_path / "requirements.txt")
    run = client.runs.submit(script("print(1)"), environment=name, **SMALL)
    ended = client.runs.wait(run.id, timeout=PATIENCE)
    assert ended.status == "Failed"
    failed(ended.problem, "package_not_found", names="sckit-lern")


def test_a_build_that_nobody_waits_for_any_more_is_stopped(
    client: Client, index: ThreadedIndex, script: Scripts, unique: Names
) -> None:
    index.gate.clear()
    requirements = index.add("alpha")
    name = unique("env")
    client.environments.register(name, requirements=requirements)
    run = submit(client, script("print(1)"), environment=name)
    eventually(lambda: index.asked, "the build began")
    assert client.runs.cancel(run.id).status in {"Canceled", "CancelRequested"}
    assert client.runs.wait(run.id, timeout=PATIENCE).status == "Canceled"


# --- references


def test_a_build_of_an_environment_that_does_not_exist(topology: Topology, client: Client, unique: Names) -> None:
    name = unique("nothing")
    build = client.builds.start(name)
    ended: Any = client.builds.wait(build.id, timeout=PATIENCE)
    failed(ended.problem, "environment_not_found", names=name)
    said(topology.cli("env", "build", name, code=3), "environment_not_found", names=name)
    said(topology.cli("env", "show", name, code=3), "environment_not_found", names=name)


def test_a_version_or_a_label_that_does_not_exist_lists_those_that_do(
    topology: Topology, client: Client, unique: Names
) -> None:
    name = unique("env")
    client.environments.register(name)
    client.environments.label(name, "stable", 1)
    said(topology.cli("env", "show", f"{name}:9", code=3), "environment_version_not_found", names="1")
    said(topology.cli("env", "show", f"{name}@stabel", code=3), "label_not_found", names="stable")


def test_latest_is_no_label_to_set(client: Client, unique: Names) -> None:
    name = unique("env")
    client.environments.register(name)
    with pytest.raises(ClocheError) as caught:
        client.environments.label(name, "latest", 1)
    refused(caught.value, "label_reserved", names="latest")
