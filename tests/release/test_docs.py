"""Every command of the README and the tutorial, as typed, on a newcomer's machine."""

import re
from pathlib import Path

import pytest

from tests.release.newcomer import ROOT, environment, left_running, run, sources

INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install -q .\n"
PAGES = {"docs/tutorial/first-model.md": (INSTALL, "Completed")}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work_as_typed(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    home = tmp_path / "home"
    before, word = PAGES[page]
    printed = run(before + "\n".join(blocks), sources(tmp_path / "cloche"), environment(home))
    assert word in printed
    assert left_running(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_readmes_blocks_work_as_typed_one_after_the_other(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    typed = "\n".join(re.findall(r"```bash\n(.*?)```", readme, re.DOTALL))
    block = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert typed
    assert block is not None
    home = tmp_path / "home"
    folder = sources(tmp_path / "cloche")
    (folder / "readme.py").write_text(block[1])
    printed = run(f"{typed}\ncloche up -d\npython readme.py\ncloche down", folder, environment(home))
    assert printed.count("{'wines'") + printed.count('{"wines"') == 2
    assert left_running(tmp_path) == {}


def test_pages_link_only_to_what_exists() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
