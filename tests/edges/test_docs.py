"""The documentation hangs together: every page is in the menu, every link leads somewhere, and the tables are those of the code."""

from __future__ import annotations

import importlib.util
import posixpath
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("cyclopts", reason="the command line is an extra, and part of what is described")

from kling_async import ALL_JOBS, Status, errors
from kling_async.cli import Exit
from kling_async.journal import State

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ELSEWHERE = {"README.md": ROOT, "CONTRIBUTING.md": ROOT}
LINK = re.compile(r"!?\[[^\]]*\]\((?!https?:|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)


def script(name: str) -> ModuleType:
    """A script of `docs`, as a module."""
    spec = importlib.util.spec_from_file_location(f"docs{name}", DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED: dict[str, str] = {f"reference/{name}": text() for name, text in script("_generate").PAGES.items()}
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))} | GENERATED


def anchors_of(text: str) -> set[str]:
    """The names by which the headings of a page are linked to."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def broken(page: str, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    found = list[str]()
    folder = posixpath.dirname(page if page in ELSEWHERE else f"docs/{page}")
    for link in LINK.finditer(FENCED.sub("", text)):
        target = posixpath.normpath(posixpath.join(folder, link["path"])) if link["path"] else f"docs/{page}"
        inside = PAGES.get(target.removeprefix("docs/"))
        there = inside is not None or (ROOT / target).exists()
        if not there or (link["anchor"] and inside is not None and link["anchor"] not in anchors_of(inside)):
            found.append(link[0])
    return found


def test_every_page_is_in_the_menu() -> None:
    """Each page can be reached, once, and the menu names no page that is not there."""
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert sorted(re.findall(r"[\w/-]+\.md$", menu, re.MULTILINE)) == sorted(PAGES)


@pytest.mark.parametrize("section", ["how-to", "reference", "explanation"])
def test_every_page_is_on_the_front_page_of_its_section(section: str) -> None:
    """Each page has a line on its section's first page."""
    there = {page.partition("/")[2] for page in PAGES if page.startswith(f"{section}/")} - {"index.md"}
    assert there == set(re.findall(r"^- \[[^\]]+\]\(([\w-]+\.md)\)", PAGES[f"{section}/index.md"], re.MULTILINE))


def test_links() -> None:
    """Every link within the documentation leads to a page or a file, and to a heading that is there."""
    texts = PAGES | {name: (home / name).read_text(encoding="utf-8") for name, home in ELSEWHERE.items() if (home / name).exists()}
    assert {page: links for page, text in texts.items() if (links := broken(page, text))} == {}


def test_broken_links_are_found() -> None:
    """A page, a heading, a file that is not there."""
    good = "[a](errors.md#when-a-caller-leaves) [b](../index.md) [c](https://host.example/x) ![d](../assets/demo.png)"
    bad = ["[e](nowhere.md)", "[f](errors.md#nothing)", "[g](#nor-this)", "![h](x.png)"]
    assert broken("how-to/errors.md", " ".join([good, *bad])) == bad


def test_tables_are_complete() -> None:
    """All jobs, errors, states and exit codes of the code have their row."""
    jobs, errs, states, commands = (GENERATED[f"reference/{name}.md"] for name in ("jobs", "errors", "states", "command-line"))
    assert [job.__name__ for job in ALL_JOBS if f"## {job.__name__}\n" not in jobs] == []
    named = [name for name in errors.__all__ if name.endswith(("Error", "Unknown"))]
    assert [name for name in named if f"`{name}` |" not in errs] == []
    assert [str(state) for state in (*Status, *State) if f"| `{state}` |" not in states] == []
    assert [int(code) for code in Exit if f"| {int(code)} |" not in commands] == []


def test_every_error_has_its_advice() -> None:
    """The page on errors says of each what to do."""
    said = PAGES["how-to/errors.md"]
    groups = {"KlingError", "ApiError", "TaskError"}
    assert [name for name in errors.__all__ if name[0].isupper() and name not in groups and f"`{name}`" not in said] == []


def test_text_for_language_models(tmp_path: Path) -> None:
    """`llms.txt` has a heading, what it is about, and sections of links to texts that are there; docstrings stand where they belong."""
    llms = script("_llms")
    for name, text in PAGES.items():
        source = tmp_path / "docs" / name
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text, encoding="utf-8")
        built = tmp_path / "site" / f"{name.removesuffix('.md')}.html"
        built.parent.mkdir(parents=True, exist_ok=True)
        built.touch()
    llms.write(tmp_path / "site", tmp_path / "docs")
    index = (tmp_path / "site" / "llms.txt").read_text(encoding="utf-8")
    assert re.match(r"# kling_async\n\n> .+\n\n", index)
    sections = [part.splitlines() for part in index.split("\n## ")[1:]]
    assert [lines[0] for lines in sections] == ["Start here", "How to", "Reference", "Explanation"]
    entries = [re.fullmatch(r"- \[[^\]]+\]\(([\w./-]+)\)(?:: .+)?", line) for lines in sections for line in lines[1:] if line]
    assert {entry and entry[1] for entry in entries} == {f"{page.removesuffix('.md')}.html.md" for page in PAGES}
    everything = (tmp_path / "site" / "llms-full.txt").read_text(encoding="utf-8")
    assert "async def submit(job: Job[R]" in everything
    assert "#### KlingSession.recover" in everything
    assert not re.search(r"^:::|^<!-- not run", everything, re.MULTILINE)
    for path in (tmp_path / "site").rglob("*.md"):
        for target in re.findall(r"\]\(([\w./-]+\.html\.md)(?:#[^)]+)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).resolve().exists(), (path, target)
    for target in re.findall(r"\]\(([\w./-]+\.html\.md)(?:#[^)]+)?\)", everything):
        assert (tmp_path / "site" / target).exists(), target
